//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use forwarder::aead::Engine;
use forwarder::config::RunOptions;

/// A WireGuard site-to-site gateway in user space.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway until SIGTERM or SIGINT; SIGHUP reads the files again
    Run {
        /// What to run.
        #[command(flatten)]
        options: Options,
        /// Where to write the counters as JSON, on SIGUSR1 and at exit
        #[arg(long, value_name = "FILE")]
        counters: Option<PathBuf>,
        /// Write the keys of all handshakes to a new file, for Wireshark. Nothing is secret then.
        #[cfg(feature = "keylog")]
        #[arg(long, value_name = "FILE")]
        keylog: Option<PathBuf>,
    },
    /// Test whether `run` would work (exit code 1: it would not); attach nothing, change nothing
    Check {
        /// What to check.
        #[command(flatten)]
        options: Options,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove the routes, rules and control sockets that a `run` left behind (`guard = "keep"`, `kill -9`)
    Down,
    /// Print a new private key
    Genkey,
    /// Read a private key from standard input, print its public key
    Pubkey,
    /// Print a new preshared key
    Genpsk,
    /// Waits for the end of `run` and cleans up after it
    #[command(hide = true, name = forwarder::kernel::guard::JANITOR)]
    Janitor,
}

/// Options of `run` and `check`.
#[derive(Debug, Args)]
pub struct Options {
    /// Bond, plain device or VLAN with LAN or WAN on it; repeatable
    #[arg(long = "iface", value_name = "IFACE", required = true)]
    interfaces: Vec<String>,
    /// wg-quick file, or folder of *.conf; repeatable [default: /etc/wireguard]
    #[arg(long = "config", value_name = "FILE|DIR")]
    configs: Vec<PathBuf>,
    /// At most so many workers; 0: no AF_XDP, all packets go by TUN and UDP sockets [default: as many as allowed
    /// cores and NIC queues; 0 where the kernel has no AF_XDP]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Settings that wg-quick's format cannot say; all of them optional:
    /// workers = N, guard = "off"|"keep", transit = true|false,
    /// [[group]] with name = "..." and peers = ["TUNNEL", "TUNNEL/PEER", ...],
    /// [tunnel.TUNNEL] with roaming = true|false and copy_dscp = true|false
    /// [default: /etc/forwarder/forwarder.toml if it exists]
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    #[expect(clippy::doc_markdown, reason = "it is shown as it stands")]
    settings: Option<PathBuf>,
    /// Seal and open with this engine: avx512, avx2, ring or portable [default: the best that works here]
    #[arg(long, value_name = "ENGINE")]
    aead: Option<Engine>,
}

impl From<Options> for RunOptions {
    fn from(options: Options) -> Self {
        let Options { interfaces, configs, workers, settings, aead } = options;
        Self { interfaces, configs, workers, settings, aead, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Mistakes in forwarder.toml send the operator there.
    #[test]
    fn the_help_of_run_has_all_settings() {
        let help = Cli::command().find_subcommand_mut("run").expect("run").render_long_help().to_string();
        let settings =
            ["workers", "guard", "transit", "[[group]]", "name", "peers", "[tunnel.", "roaming", "copy_dscp"];
        assert!(settings.iter().all(|setting| help.contains(setting)), "{help}");
    }

    #[test]
    fn options_of_run() {
        let line = "forwarder run --iface bond0 --iface eth9 --config a.conf --config /b --workers 2 --settings s --aead ring";
        let Command::Run { options, counters: None, .. } = Cli::parse_from(line.split(' ')).command else {
            panic!("run")
        };
        let expected = RunOptions {
            interfaces: vec!["bond0".into(), "eth9".into()],
            configs: vec!["a.conf".into(), "/b".into()],
            workers: Some(2),
            settings: Some("s".into()),
            aead: Some(Engine::Ring),
            ..RunOptions::default()
        };
        assert_eq!(RunOptions::from(options), expected);
    }

    #[test]
    fn usage_errors() {
        for line in [
            "forwarder",
            "forwarder run",
            "forwarder run --iface a --workers -1",
            "forwarder run --iface a --aead rot13",
            "forwarder fly",
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
