//! Measures what a gateway carries: a paced, sequence-numbered UDP generator and a sink over `AF_XDP`. And
//! what its encryption costs.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use serde::Serialize;

mod account;
mod aead;
mod constant_time;
mod cpu;
mod flood;
mod forge;
mod handshakes;
mod host;
mod newcomer;
mod null;
mod packet;
mod pipeline;
mod program;
mod rate;
mod report;
mod search;
mod sender;
mod sink;
mod size;
mod status;
mod trial;

use account::Account;
use forwarder::clock::boottime;
use host::Interface;
use packet::{Route, Template};
use report::{Observed, Report};
use sender::Sender;
use sink::Sink;

#[derive(Parser)]
#[command(version, about)]
enum Command {
    /// Search the highest rates between two hosts (network namespaces): without loss, and with 0.5 %
    Rate {
        #[command(flatten)]
        ends: rate::Ends,
        #[command(flatten)]
        load: rate::Load,
        #[command(flatten)]
        search: rate::Search,
        /// The generator's own ceiling in packets per second, if it is known [default: searched first]
        #[arg(long, value_name = "PPS")]
        ceiling: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// Search the highest rates of generator and sink themselves, over a veth pair
    Ceiling {
        #[command(flatten)]
        load: rate::Load,
        #[command(flatten)]
        search: rate::Search,
        /// Offer this rate instead, in packets per second
        #[arg(long, value_name = "PPS")]
        rate: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// Offer one rate between two hosts (network namespaces) and count what arrives
    Offer {
        #[command(flatten)]
        ends: rate::Ends,
        #[command(flatten)]
        load: rate::Load,
        /// Packets per second
        #[arg(long)]
        rate: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Flood a gateway with handshake messages from spoofed sources; prints one JSON object
    Flood(flood::Options),
    /// Ask for handshakes as many peers do, as fast as they are answered; prints one JSON object
    Handshakes(handshakes::Options),
    /// Print the public keys of the peers of `handshakes`
    Peers {
        /// How many
        #[arg(long)]
        count: u64,
    },
    /// Join a gateway as a new peer, ping through it and rekey; prints one JSON object
    Newcomer(newcomer::Options),
    /// Send from an interface of this namespace
    Send(Send),
    /// Measure the AEAD engines against other implementations
    Aead(aead::Options),
    /// Test whether the time of the AEAD engines shows secrets, by dudect's method
    ConstantTime(constant_time::Options),
    /// Carry packets as a gateway of this namespace that seals nothing; ends by a signal
    Null(null::Options),
    /// Measure the packet pipeline in memory, beyond the AEAD's own time
    Pipeline(pipeline::Options),
    /// Count what arrives at an interface of this namespace
    Sink {
        /// The interface
        #[arg(long)]
        iface: String,
        /// How long to count
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args)]
struct Send {
    /// The interface
    #[arg(long)]
    iface: String,
    /// MAC address of the next hop; the kernel is asked for it if it is not given
    #[arg(long, value_parser = host::parse_mac)]
    dst_mac: Option<[u8; 6]>,
    /// Source address
    #[arg(long)]
    src: Ipv4Addr,
    /// Destination address
    #[arg(long)]
    dst: Ipv4Addr,
    /// Packets per second
    #[arg(long)]
    rate: u64,
    #[command(flatten)]
    load: rate::Load,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Output {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Rate { ends, load, search, ceiling, output } => {
            let report = rate::measure(&ends, &load, &search, ceiling)?;
            print(&report, &output, Report::text)
        }
        Command::Ceiling { load, rate: Some(rate), output, .. } => {
            print(&rate::offer_alone(&load, rate)?, &output, Observed::text)
        }
        Command::Ceiling { load, search, rate: None, output } => {
            print(&rate::ceiling(&load, &search)?, &output, Report::text)
        }
        Command::Offer { ends, load, rate, output } => {
            print(&rate::offer(&ends, &load, rate)?, &output, Observed::text)
        }
        Command::Flood(options) => print_json(&flood::run(&options)?),
        Command::Handshakes(options) => print_json(&handshakes::run(&options)?),
        Command::Peers { count } => {
            handshakes::public_keys(count).for_each(|key| println!("{key}"));
            Ok(())
        }
        Command::Newcomer(options) => print_json(&newcomer::run(&options)?),
        Command::Send(options) => send(&options),
        Command::Null(options) => null::run(&options),
        Command::Aead(options) => aead::run(&options),
        Command::ConstantTime(options) => constant_time::run(&options),
        Command::Pipeline(options) => pipeline::run(&options),
        Command::Sink { iface, seconds, output } => sink(&iface, seconds, &output),
    }
}

fn print<T: Serialize>(value: &T, output: &Output, text: fn(&T) -> String) -> anyhow::Result<()> {
    if output.json {
        return print_json(value);
    }
    print!("{}", text(value));
    Ok(())
}

#[derive(Serialize)]
struct Sent {
    sent: u64,
}

fn send(options: &Send) -> anyhow::Result<()> {
    let interface = Interface::find(&options.iface)?;
    let next_hop_mac = options.dst_mac.map_or_else(|| interface.next_hop_mac(options.dst), Ok)?;
    let route =
        Route { source_mac: interface.mac, next_hop_mac, source: options.src, destination: options.dst };
    let load = &options.load;
    let mut sender = Sender::open(&interface, Template::new(&route, load.flows, load.size), load.shape())?;
    let start = boottime();
    sender.start(0, start);
    trial::turns(start, Duration::from_secs_f64(load.seconds), load.shape().tick, |elapsed| {
        sender.send_due(elapsed, options.rate);
    });
    let sent = Sent { sent: sender.sent() };
    if options.output.json {
        return print_json(&sent);
    }
    println!("sent {}", sent.sent);
    Ok(())
}

#[derive(Serialize)]
struct Arrived {
    received: u64,
    reordered: u64,
    duplicates: u64,
}

fn sink(iface: &str, seconds: f64, output: &Output) -> anyhow::Result<()> {
    let mut sink = Sink::open(&Interface::find(iface)?)?;
    let mut account = Account::new(packet::MOST_FLOWS);
    trial::turns(boottime(), Duration::from_secs_f64(seconds), trial::TURN, |_| {
        sink.drain(|stamp, _| {
            account.arrive(stamp.flow, stamp.sequence);
        });
    });
    let arrived =
        Arrived { received: account.received, reordered: account.reordered, duplicates: account.duplicates };
    if output.json {
        return print_json(&arrived);
    }
    println!("received {}", arrived.received);
    println!("  reordered {}, duplicates {}", arrived.reordered, arrived.duplicates);
    Ok(())
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
