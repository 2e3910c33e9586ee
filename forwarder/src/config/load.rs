//! Finding and reading the wg-quick files.

use std::cmp::Ordering;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::{TunnelConfig, wg_quick};

/// Where wg-quick files are looked for when none is named.
pub const DEFAULT_FOLDER: &str = "/etc/wireguard";

/// The tunnels, in the order of their files: as named, and within a folder wg2 before wg10.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The tunnels.
    pub tunnels: Vec<TunnelConfig>,
    /// What the operator should know, `file:line: ...` or `file: ...`.
    pub remarks: Vec<String>,
}

/// Reads all files; a folder stands for its `*.conf`, nothing for [`DEFAULT_FOLDER`].
///
/// # Errors
/// All mistakes of all files.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, Vec<ConfigError>> {
    let default = [PathBuf::from(DEFAULT_FOLDER)];
    let mut loaded = Loaded::default();
    let mut errors = Vec::new();
    for path in if paths.is_empty() { &default } else { paths } {
        match files(path) {
            Ok(files) => {
                for file in files {
                    load_file(&file, &mut loaded).unwrap_or_else(|e| errors.extend(e));
                }
            }
            Err(error) => errors.push(error),
        }
    }
    errors.extend(clashes(&loaded.tunnels));
    if errors.is_empty() { Ok(loaded) } else { Err(errors) }
}

/// The files that `path` stands for.
fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |e: std::io::Error| ConfigError::whole(path, Problem::Unreadable(e.to_string()));
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|e| e == "conf") {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(ConfigError::whole(path, Problem::NoFiles));
    }
    files.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(files)
}

fn load_file(file: &Path, loaded: &mut Loaded) -> Result<(), Vec<ConfigError>> {
    let whole = |problem| vec![ConfigError::whole(file, problem)];
    let bytes = fs::read(file).map_err(|e| whole(Problem::Unreadable(e.to_string())))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    if !is_tunnel_name(&name) {
        return Err(whole(Problem::Name(name.escape_debug().to_string())));
    }
    let tunnel = wg_quick::parse(&name, file, &bytes)?;
    loaded.remarks.extend(permissions(file));
    for (line, key) in &tunnel.ignored {
        loaded.remarks.push(format!("{}:{line}: {key} is not acted on", file.display()));
    }
    loaded.tunnels.push(tunnel);
    Ok(())
}

/// wg-quick's rule for interface names.
fn is_tunnel_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_=+.-".contains(c);
    (1..=15).contains(&name.len()) && name.chars().all(allowed)
}

fn permissions(file: &Path) -> Option<String> {
    let mode = fs::metadata(file).ok()?.permissions().mode();
    let name = file.display();
    (mode & 0o077 != 0)
        .then(|| format!("{name}: holds a private key and is open to others: chmod 600 {name}"))
}

/// Names and listen ports that two tunnels share.
pub fn clashes(tunnels: &[TunnelConfig]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (i, tunnel) in tunnels.iter().enumerate() {
        let earlier = &tunnels[..i];
        if let Some(other) = earlier.iter().find(|o| o.name == tunnel.name) {
            let problem = Problem::SameName { name: tunnel.name.clone(), other: other.file.clone() };
            errors.push(ConfigError::whole(&tunnel.file, problem));
            continue;
        }
        let same_port = |o: &&TunnelConfig| o.listen_port != 0 && o.listen_port == tunnel.listen_port;
        if let Some(other) = earlier.iter().find(same_port) {
            let problem = Problem::SamePort { port: tunnel.listen_port, other: other.file.clone() };
            errors.push(ConfigError::at(&tunnel.file, tunnel.listen_port_line, problem));
        }
    }
    errors
}

/// Compares with numbers taken as numbers: wg2 before wg10.
fn natural(a: &str, b: &str) -> Ordering {
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let (mut x, mut y) = (a, b);
    while let (Some(c), Some(d)) = (x.chars().next(), y.chars().next()) {
        let (m, n) = (digits(x), digits(y));
        let (order, m, n) = if m > 0 && n > 0 {
            let (p, q) = (x[..m].trim_start_matches('0'), y[..n].trim_start_matches('0'));
            (p.len().cmp(&q.len()).then_with(|| p.cmp(q)), m, n)
        } else {
            (c.cmp(&d), c.len_utf8(), d.len_utf8())
        };
        if order.is_ne() {
            return order;
        }
        (x, y) = (&x[m..], &y[n..]);
    }
    x.len().cmp(&y.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str, files: &[(&str, &str)]) -> Self {
            let folder = std::env::temp_dir().join(format!("forwarder-{test}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in files {
                fs::write(folder.join(name), text).unwrap();
                fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            }
            Self(folder)
        }

        fn load(&self) -> Result<Loaded, Vec<String>> {
            load(std::slice::from_ref(&self.0))
                .map_err(|errors| errors.iter().map(ToString::to_string).collect())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const KEY: &str = "[Interface]\nPrivateKey = 6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=\n";

    #[test]
    fn a_folder_is_read_in_natural_order() {
        let files = ["wg10.conf", "wg2.conf", "wg1.conf", "notes.txt", "a.conf"].map(|name| (name, KEY));
        let loaded = Folder::new("order", &files).load().unwrap();
        let names: Vec<_> = loaded.tunnels.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "wg1", "wg2", "wg10"]);
        assert!(loaded.remarks.is_empty(), "{:?}", loaded.remarks);
    }

    #[test]
    fn natural_order() {
        for (a, b) in [("wg2", "wg10"), ("wg", "wg0"), ("a9", "b1"), ("wg1a", "wg1b"), ("wg01", "wg2")] {
            assert_eq!((natural(a, b), natural(b, a)), (Ordering::Less, Ordering::Greater), "{a} {b}");
        }
        assert_eq!(natural("wg1", "wg1"), Ordering::Equal);
    }

    #[test]
    fn mistakes_of_all_files_are_reported() {
        let port = format!("{KEY}ListenPort = 5000\n");
        let folder = Folder::new(
            "mistakes",
            &[("a.conf", &port), ("b.conf", &port), ("c.conf", "x\n"), ("not a name.conf", KEY)],
        );
        let errors = folder.load().unwrap_err();
        let path = |name: &str| folder.0.join(name).display().to_string();
        for start in [
            format!("{}:3: ListenPort 5000 is also that of {}", path("b.conf"), path("a.conf")),
            format!("{}:1: neither", path("c.conf")),
            format!("{}: 'not a name' cannot name a tunnel", path("not a name.conf")),
        ] {
            assert!(errors.iter().any(|e| e.starts_with(&start)), "{errors:#?} lacks {start}");
        }
    }

    #[test]
    fn what_is_named_must_exist_and_be_named_once() {
        let missing = load(&[PathBuf::from("/nonexistent/wg0.conf")]).unwrap_err();
        assert!(missing[0].to_string().starts_with("/nonexistent/wg0.conf: cannot be read (No such file"));
        let empty = Folder::new("empty", &[]);
        assert!(empty.load().unwrap_err()[0].contains("no *.conf file in this folder"));
        let folder = Folder::new("twice", &[("wg0.conf", KEY)]);
        let twice = load(&[folder.0.clone(), folder.0.join("wg0.conf")]).unwrap_err();
        assert!(twice[0].to_string().contains("tunnel 'wg0' is already read from"), "{twice:?}");
    }

    #[test]
    fn open_files_and_ignored_lines_are_remarked() {
        let folder = Folder::new("remarks", &[("wg0.conf", &format!("{KEY}PostUp = true\n"))]);
        let file = folder.0.join("wg0.conf");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let remarks = folder.load().unwrap().remarks;
        let file = file.display();
        assert!(remarks[0].ends_with(&format!("chmod 600 {file}")), "{remarks:?}");
        assert_eq!(remarks[1], format!("{file}:3: PostUp is not acted on"));
    }
}
