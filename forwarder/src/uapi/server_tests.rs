use std::os::unix::net::UnixStream as Caller;
use std::path::Path;
use std::thread;

use super::*;

/// Long for those who are quick, and short for those who wait for its end.
const SHORT: Duration = Duration::from_secs(1);

/// A server with the socket of `wg0`, in a directory that goes with it.
struct Home(Server, PathBuf);

impl Home {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("forwarder-server-{test}-{}", std::process::id()));
        let mut server = Server::within(directory.clone(), SHORT);
        server.serve(["wg0"].into_iter());
        Self(server, directory)
    }

    fn socket(&self) -> PathBuf {
        self.1.join("wg0.sock")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

/// What a blocking client gets for what it sends, until the server hangs up or the client is content.
fn ask(socket: &Path, text: &str, hang_up: bool) -> thread::JoinHandle<String> {
    use std::io::{Read as _, Write as _};
    let (mut stream, text) = (Caller::connect(socket).unwrap(), text.to_owned());
    thread::spawn(move || {
        stream.write_all(text.as_bytes()).unwrap();
        if hang_up {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

fn text(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

#[tokio::test]
async fn requests_are_answered_in_order() {
    let mut home = Home::new("order");
    let client = ask(&home.socket(), "get=1\n\nset=1\nlisten_port=x\n\nset=1\nfwmark=1\n\nget=1\n\n", true);
    let call = home.0.next().await;
    assert!(call.tunnel == "wg0" && matches!(call.request, Request::Get));
    call.answer(Ok(text("listen_port=1\n")));
    let call = home.0.next().await;
    assert!(matches!(&call.request, Request::Set(set) if set.fwmark == Some(1)));
    call.answer(Err(Errno::EADDRINUSE));
    home.0.next().await.answer(Err(Errno::ENODEV));
    let answer = tokio::task::spawn_blocking(|| client.join().unwrap()).await.unwrap();
    // Mistakes do not reach the control thread. The signs are those that `wg` reads.
    assert_eq!(answer, "listen_port=1\nerrno=0\n\nerrno=-22\n\nerrno=-98\n\nerrno=19\n\n");
}

#[tokio::test]
async fn who_keeps_us_waiting_is_hung_up_on() {
    let home = Home::new("patience");
    // Neither a silent caller nor one that never comes to an end.
    for words in ["", "set=1\nlisten_port=1\n"] {
        let mut stream = UnixStream::connect(home.socket()).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        let begin = tokio::time::Instant::now();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "");
        assert!(begin.elapsed() >= SHORT, "{words:?}: {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn who_does_not_read_is_hung_up_on() {
    let mut home = Home::new("reading");
    let mut stream = UnixStream::connect(home.socket()).await.unwrap();
    stream.write_all(b"get=1\n\n").await.unwrap();
    home.0.next().await.answer(Ok(text(&"x\n".repeat(1 << 20))));
    tokio::time::sleep(2 * SHORT).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() < 1 << 21);
}

#[tokio::test]
async fn a_request_without_end_is_refused() {
    let home = Home::new("size");
    let mut stream = UnixStream::connect(home.socket()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let endless = async {
        writer.write_all(b"set=1\n").await?;
        loop {
            writer.write_all(&[b'x'; 4096]).await?;
        }
    };
    let mut answer = [0; 11];
    let (written, read) = tokio::join!(endless, reader.read_exact(&mut answer));
    let written: io::Result<()> = written;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    read.unwrap();
    assert_eq!(&answer, b"errno=-90\n\n");
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_gets_its_turn() {
    let mut home = Home::new("places");
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(UnixStream::connect(home.socket()).await.unwrap());
    }
    let mut late = UnixStream::connect(home.socket()).await.unwrap();
    late.write_all(b"get=1\n\n").await.unwrap();
    assert!(timeout(Duration::from_millis(200), home.0.next()).await.is_err());
    drop(idle.pop());
    home.0.next().await.answer(Ok(text("")));
    let mut answer = [0; 9];
    late.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"errno=0\n\n");
}

#[tokio::test]
async fn sockets_follow_the_tunnels() {
    let mut home = Home::new("follow");
    home.0.serve(["wg1", "wg0"].into_iter());
    let before = std::fs::metadata(home.socket()).unwrap();
    assert!(home.1.join("wg1.sock").exists());
    home.0.serve(["wg0"].into_iter());
    assert!(!home.1.join("wg1.sock").exists());
    let after = std::fs::metadata(home.socket()).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
    home.0.serve(std::iter::empty());
    assert!(Caller::connect(home.socket()).is_err());
}

/// Two gateways in two network namespaces share this directory: the second one works without a socket, until
/// it tries again when the first one is gone.
#[tokio::test]
async fn a_socket_that_is_taken_is_done_without() {
    let mut home = Home::new("shared");
    let mut second = Server::within(home.1.clone(), SHORT);
    second.serve(["wg0", "wg1"].into_iter());
    assert!(!second.sockets.contains_key("wg0") && second.sockets.contains_key("wg1"));
    let client = ask(&home.socket(), "get=1\n\n", true);
    home.0.next().await.answer(Ok(text("")));
    assert_eq!(tokio::task::spawn_blocking(|| client.join().unwrap()).await.unwrap(), "errno=0\n\n");

    home.0.serve(std::iter::empty());
    // It is closed when its task has seen its end.
    tokio::task::yield_now().await;
    second.serve(["wg0", "wg1"].into_iter());
    assert!(second.sockets.contains_key("wg0"));
}

#[tokio::test]
async fn what_stands_in_the_way_is_told() {
    let home = Home::new("told");
    let complaint = |kind| home.0.complaint("wg0", &io::Error::from(kind));
    let path = home.socket();
    for (kind, told) in [
        (io::ErrorKind::AddrInUse, "another process answers there"),
        (io::ErrorKind::AlreadyExists, "is no socket"),
        (io::ErrorKind::PermissionDenied, "cannot be made (permission denied)"),
    ] {
        let start = format!("{}: {told}, so `wg` cannot reach this wg0: ", path.display());
        assert!(complaint(kind).starts_with(&start), "{}", complaint(kind));
    }
}

#[test]
fn root_and_we_are_trusted() {
    let own = nix::unistd::geteuid().as_raw();
    assert!(is_trusted(0) && is_trusted(own) && !is_trusted(own + 1));
}
