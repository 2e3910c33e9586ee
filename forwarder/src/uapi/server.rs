//! The sockets' side of the protocol: who may call, for how long, and the way to the control thread.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{future, io};

use nix::errno::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::parser::Parser;
use super::request::Request;
use super::socket::{DIRECTORY, SocketFile};

/// Connections at once, over all tunnels; more wait for one to end.
const CONNECTIONS: usize = 16;
/// Requests that wait for the control thread; a connection has one at a time.
const CALLS: usize = CONNECTIONS;
/// How long a caller may take for its request, and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a `get` answers (nothing for a `set`), or why the request was refused.
pub type Answer = Result<Zeroizing<String>, Errno>;

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Call {
    /// The tunnel's name.
    pub tunnel: String,
    /// What is asked for.
    pub request: Request,
    answer: oneshot::Sender<Answer>,
}

impl Call {
    /// Answers it.
    pub fn answer(self, answer: Answer) {
        // Who does not wait any more needs no answer.
        let _ = self.answer.send(answer);
    }
}

/// The tunnels' sockets. They vanish with this value.
pub struct Server {
    directory: PathBuf,
    sockets: HashMap<String, Listening>,
    /// For connections to come.
    caller: mpsc::Sender<Call>,
    calls: mpsc::Receiver<Call>,
    places: Arc<Semaphore>,
    patience: Duration,
}

struct Listening {
    _file: SocketFile,
    accepting: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// A server that has no sockets yet.
    pub fn new() -> Self {
        Self::within(PathBuf::from(DIRECTORY), PATIENCE)
    }

    fn within(directory: PathBuf, patience: Duration) -> Self {
        let (caller, calls) = mpsc::channel(CALLS);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        Self { directory, sockets: HashMap::new(), caller, calls, places, patience }
    }

    /// Has a socket for each of these tunnels, and no others; to be called on a tokio runtime. A tunnel
    /// works without one, so what stands in the way is a line in the log, and the next call tries again.
    pub fn serve<'a>(&mut self, tunnels: impl Iterator<Item = &'a str> + Clone) {
        self.sockets.retain(|name, _| tunnels.clone().any(|tunnel| tunnel == name));
        for name in tunnels {
            if self.sockets.contains_key(name) {
                continue;
            }
            match self.open(name) {
                Ok(socket) => _ = self.sockets.insert(name.to_owned(), socket),
                Err(error) => tracing::warn!("{}", self.complaint(name, &error)),
            }
        }
    }

    /// The next request. Nothing is lost when the returned future is dropped.
    pub async fn next(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            // Never, since we hold a sender ourselves.
            None => future::pending().await,
        }
    }

    fn open(&self, name: &str) -> io::Result<Listening> {
        let (listener, file) = SocketFile::listen(&self.directory, name)?;
        let listener = UnixListener::from_std(listener)?;
        let door = Door {
            tunnel: name.to_owned(),
            caller: self.caller.clone(),
            places: Arc::clone(&self.places),
            patience: self.patience,
        };
        Ok(Listening { _file: file, accepting: tokio::spawn(door.accept(listener)).abort_handle() })
    }

    fn complaint(&self, name: &str, error: &io::Error) -> String {
        let path = self.directory.join(format!("{name}.sock"));
        let (cause, fix) = match error.kind() {
            io::ErrorKind::AddrInUse => ("another process answers there".into(), "rename the tunnel"),
            io::ErrorKind::AlreadyExists => ("is no socket".into(), "remove it and send SIGHUP"),
            _ => (format!("cannot be made ({error})"), "the folder must be ours"),
        };
        format!("{}: {cause}, so `wg` cannot reach this {name}: {fix}", path.display())
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

/// What a tunnel's connections need.
#[derive(Clone)]
struct Door {
    tunnel: String,
    caller: mpsc::Sender<Call>,
    places: Arc<Semaphore>,
    patience: Duration,
}

impl Door {
    async fn accept(self, listener: UnixListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors or memory: others have to give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let door = self.clone();
            tokio::spawn(async move {
                // A caller that breaks off or does not keep the time is none of the log's business.
                let _ = door.converse(stream).await;
                drop(place);
            });
        }
    }

    /// One request after the other, until the caller hangs up.
    async fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        if !is_trusted(stream.peer_cred()?.uid()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut reader = Reader::default();
        loop {
            let request = timeout(self.patience, reader.next(&mut stream)).await??;
            let Some(request) = request else { return Ok(()) };
            let is_get = matches!(request, Ok(Request::Get));
            let is_last = matches!(request, Err(Errno::EMSGSIZE));
            let answer = match request {
                Ok(request) => self.call(request).await,
                Err(errno) => Err(errno),
            };
            timeout(self.patience, write(&mut stream, is_get, answer)).await??;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn call(&self, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        let call = Call { tunnel: self.tunnel.clone(), request, answer };
        self.caller.send(call).await.map_err(|_| Errno::ESHUTDOWN)?;
        answered.await.map_err(|_| Errno::ESHUTDOWN)?
    }
}

/// Root, or the user that we are.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// Requests from a connection.
struct Reader {
    parser: Parser,
    buffer: Zeroizing<[u8; 4096]>,
    /// What of the buffer was received and not read yet.
    unread: Range<usize>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { parser: Parser::default(), buffer: Zeroizing::new([0; 4096]), unread: 0..0 }
    }
}

impl Reader {
    /// The next request; `None` when the caller has hung up.
    async fn next(&mut self, stream: &mut UnixStream) -> io::Result<Option<Result<Request, Errno>>> {
        loop {
            let mut input = &self.buffer[self.unread.clone()];
            let request = self.parser.read(&mut input);
            self.unread.start = self.unread.end - input.len();
            if request.is_some() {
                return Ok(request);
            }
            self.unread = 0..stream.read(&mut *self.buffer).await?;
            if self.unread.is_empty() {
                return Ok(None);
            }
        }
    }
}

async fn write(stream: &mut UnixStream, is_get: bool, answer: Answer) -> io::Result<()> {
    let errno = match &answer {
        Ok(_) => 0,
        // `wg` reads the numbers of errno.h after a `get`, and their negatives after a `set`.
        Err(errno) if is_get => *errno as i32,
        Err(errno) => -(*errno as i32),
    };
    if let Ok(text) = &answer {
        stream.write_all(text.as_bytes()).await?;
    }
    stream.write_all(format!("errno={errno}\n\n").as_bytes()).await
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
