//! The socket files: /run/wireguard/NAME.sock, where `wg` looks for them.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::{socket, stat};

/// Where the sockets are.
pub const DIRECTORY: &str = "/var/run/wireguard";
/// Callers that may wait for their turn.
const BACKLOG: i32 = 16;

/// A socket file that goes with its value.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: somebody else's file of the same name stays.
    identity: (u64, u64),
}

impl SocketFile {
    /// Makes the socket of the tunnel `name` in `directory`, which only we may enter, and listens on it.
    /// The file of a process that is gone is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::AddrInUse`] when somebody answers there; [`ErrorKind::AlreadyExists`] when what is there is
    /// no socket; [`ErrorKind::PermissionDenied`] when the directory is not ours; what else the system refuses.
    pub fn listen(directory: &Path, name: &str) -> io::Result<(UnixListener, Self)> {
        let _lock = lock(&private(directory)?)?;
        let path = directory.join(format!("{name}.sock"));
        if path.symlink_metadata().is_ok() && !remove_if_stale(&path)? {
            let in_the_way = if is_socket(&path)? { ErrorKind::AddrInUse } else { ErrorKind::AlreadyExists };
            return Err(in_the_way.into());
        }
        let socket = socket()?;
        // The file gets the mode of its socket, so there is no moment at which others could connect.
        stat::fchmod(socket.as_fd(), stat::Mode::S_IRUSR | stat::Mode::S_IWUSR)?;
        socket::bind(socket.as_raw_fd(), &UnixAddr::new(&path)?)?;
        let file = Self { identity: identity(&path)?, path };
        socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok((socket.into(), file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // A file that cannot be removed is found to be stale later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the sockets that nobody answers on, as `wg` would when it comes across them.
///
/// # Errors
/// The directory cannot be read; one that does not exist holds none.
pub fn remove_stale() -> io::Result<()> {
    let directory = match File::open(DIRECTORY) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        directory => directory?,
    };
    let _lock = lock(&directory)?;
    for entry in fs::read_dir(DIRECTORY)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sock") {
            remove_if_stale(&path)?;
        }
    }
    Ok(())
}

/// Opens the directory, which is ours alone from then on.
fn private(path: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let directory = File::open(path)?;
    let owner = directory.metadata()?.uid();
    if !directory.metadata()?.is_dir() || owner != nix::unistd::geteuid().as_raw() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    directory.set_permissions(Permissions::from_mode(0o700))?;
    Ok(directory)
}

/// Keeps other forwarders out of the directory: a socket that is bound and does not listen yet looks stale.
fn lock(directory: &File) -> io::Result<Flock<File>> {
    Flock::lock(directory.try_clone()?, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// Removes a socket whose process is gone; says whether it did.
fn remove_if_stale(path: &Path) -> io::Result<bool> {
    // Files that are no sockets refuse connections, too.
    if !is_socket(path)? || is_answered(path)? {
        return Ok(false);
    }
    fs::remove_file(path).map(|()| true)
}

fn is_socket(path: &Path) -> io::Result<bool> {
    Ok(path.symlink_metadata()?.file_type().is_socket())
}

/// Whether a process listens there. One that has no place for another caller does; we do not wait for it.
fn is_answered(path: &Path) -> io::Result<bool> {
    let connected = socket::connect(socket()?.as_raw_fd(), &UnixAddr::new(path)?);
    Ok(connected != Err(Errno::ECONNREFUSED))
}

/// A socket that waits for nobody.
fn socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A directory that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("forwarder-uapi-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_may_reach_the_socket() {
        let scratch = Scratch::new("modes");
        fs::create_dir(&scratch.0).unwrap();
        fs::set_permissions(&scratch.0, Permissions::from_mode(0o755)).unwrap();
        let (_listener, _file) = SocketFile::listen(&scratch.0, "wg0").unwrap();
        assert_eq!((mode(&scratch.0), mode(&scratch.0.join("wg0.sock"))), (0o700, 0o600));
    }

    #[test]
    fn a_living_owner_keeps_its_socket() {
        let scratch = Scratch::new("taken");
        let (listener, file) = SocketFile::listen(&scratch.0, "wg0").unwrap();
        let refused = SocketFile::listen(&scratch.0, "wg0").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        let _other = SocketFile::listen(&scratch.0, "wg1").unwrap();
        assert!(UnixStream::connect(&file.path).is_ok());
        drop((listener, file));
        assert!(!scratch.0.join("wg0.sock").exists());
    }

    #[test]
    fn a_dead_owners_socket_is_replaced() {
        let scratch = Scratch::new("stale");
        let (listener, file) = SocketFile::listen(&scratch.0, "wg0").unwrap();
        let path = file.path.clone();
        std::mem::forget(file);
        drop(listener);
        assert!(path.exists());
        let _new = SocketFile::listen(&scratch.0, "wg0").unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn only_the_own_file_is_removed() {
        let scratch = Scratch::new("own");
        let (_listener, file) = SocketFile::listen(&scratch.0, "wg0").unwrap();
        fs::remove_file(&file.path).unwrap();
        let (_other, new) = SocketFile::listen(&scratch.0, "wg0").unwrap();
        drop(file);
        assert!(new.path.exists());
    }

    /// Not even by a process that takes no callers any more.
    #[test]
    fn nobody_holds_us_up() {
        let scratch = Scratch::new("full");
        let (_listener, file) = SocketFile::listen(&scratch.0, "wg0").unwrap();
        let to = UnixAddr::new(&file.path).unwrap();
        let callers: Vec<_> = std::iter::repeat_with(|| socket().unwrap())
            .take_while(|caller| socket::connect(caller.as_raw_fd(), &to).is_ok())
            .collect();
        assert!(callers.len() >= BACKLOG as usize);
        let (sender, receiver) = mpsc::channel();
        let directory = scratch.0.clone();
        thread::spawn(move || sender.send(SocketFile::listen(&directory, "wg0").map(drop)));
        let outcome = receiver.recv_timeout(Duration::from_secs(10)).expect("it waits");
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let scratch = Scratch::new("file");
        fs::create_dir(&scratch.0).unwrap();
        fs::write(scratch.0.join("wg0.sock"), "precious").unwrap();
        symlink("nowhere", scratch.0.join("wg1.sock")).unwrap();
        for name in ["wg0", "wg1"] {
            let refused = SocketFile::listen(&scratch.0, name).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_to_string(scratch.0.join("wg0.sock")).unwrap(), "precious");
        assert!(scratch.0.join("wg1.sock").is_symlink());
    }
}
