//! Whom the servers run as, and the directory that user owns.

#![expect(unsafe_code, reason = "the C library tells the user, and the room in a directory")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LocalError, at};

/// An unprivileged user, when we are root and must become one; otherwise ourselves.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    uid: u32,
    gid: u32,
    drop: bool,
}

impl Account {
    pub fn choose() -> Result<Self, LocalError> {
        // SAFETY: only reads the process's credentials.
        let uid = unsafe { libc::geteuid() };
        // SAFETY: likewise.
        let gid = unsafe { libc::getegid() };
        if uid != 0 {
            return Ok(Self { uid, gid, drop: false });
        }
        let path = Path::new("/etc/passwd");
        let users = fs::read_to_string(path).map_err(at("reading", path))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| entry(&users, name))
            .map(|(uid, gid)| Self { uid, gid, drop: true })
            .ok_or(LocalError::NoAccount)
    }

    /// `command`, run as this user from a directory it may enter.
    pub fn run(self, command: &mut Command) -> &mut Command {
        if self.drop {
            command.uid(self.uid).gid(self.gid);
        }
        command.current_dir("/")
    }

    pub fn give(self, path: &Path) -> Result<(), LocalError> {
        if self.drop {
            chown(path, Some(self.uid), Some(self.gid))
                .map_err(at("changing the owner of", path))?;
        }
        Ok(())
    }

    /// Makes a directory only this user may enter.
    pub fn make_dir(self, path: &Path) -> Result<(), LocalError> {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(at("creating", path))?;
        self.give(path)
    }

    /// The directory under which everything local lives, made when it is missing.
    ///
    /// In memory when there is room: a node is 1300 small files, and some file systems take most
    /// of a second to create them. Not in the build's target directory: that is often below a
    /// home the unprivileged user cannot enter, and its path may be too long for a Unix socket.
    pub fn base(self, durable: bool) -> Result<PathBuf, LocalError> {
        let name = format!("pgshunt-{}", self.uid);
        let memory = PathBuf::from("/dev/shm");
        let chosen = std::env::temp_dir();
        let root = if !durable && self.can_reach(&memory) && has_room(&memory) {
            memory
        } else if self.can_reach(&chosen) {
            chosen
        } else {
            PathBuf::from("/tmp")
        };
        let base = root.join(name);
        match self.make_dir(&base) {
            Ok(()) => return Ok(base),
            Err(LocalError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        // Another thread may stand between making the directory and giving it away, so root's
        // ownership is accepted too. A symbolic link, or someone else's directory, is not.
        let meta = fs::symlink_metadata(&base).map_err(at("examining", &base))?;
        if !meta.is_dir() || !(meta.uid() == self.uid || (self.drop && meta.uid() == 0)) {
            return Err(LocalError::NotOurs { path: base });
        }
        self.give(&base)?;
        Ok(base)
    }

    /// Whether this user can pass every directory above `path` and write into it, by the mode bits
    /// for others. Only asked of the temporary directory, which is made to be shared.
    fn can_reach(self, path: &Path) -> bool {
        const SOCKET_NAME_ROOM: usize = 60;
        if !path.is_absolute() || path.as_os_str().len() > 107 - SOCKET_NAME_ROOM {
            return false;
        }
        if !self.drop {
            return true;
        }
        let allows = |p: &Path, bits: u32| {
            fs::metadata(p).is_ok_and(|m| m.is_dir() && m.permissions().mode() & bits == bits)
        };
        allows(path, 0o003) && path.ancestors().skip(1).all(|p| allows(p, 0o001))
    }
}

/// Whether a directory in memory can take some nodes without starving the machine. A container's
/// is often 64 MB.
fn has_room(path: &Path) -> bool {
    const WANTED: u64 = 4 << 30;
    let Ok(name) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: an all-zero statvfs is a valid value; the name is terminated and outlives the call.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::statvfs(name.as_ptr(), &mut found) } != 0 {
        return false;
    }
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    (found.f_bavail as u64).saturating_mul(found.f_frsize as u64) >= WANTED
        && available(&memory).is_some_and(|bytes| bytes >= WANTED)
}

/// `MemAvailable` in bytes from the text of /proc/meminfo.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The user and group ids of `name` in the text of a passwd file.
fn entry(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::{available, entry};

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:8::/:\npostgres:x:101:104::/:";
        assert_eq!(entry(users, "postgres"), Some((101, 104)));
        assert_eq!(entry(users, "nobody"), None);
        assert_eq!(entry(users, "root"), None, "root is what we want to get away from");
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:       100 kB\nMemAvailable:    42 kB\n";
        assert_eq!(available(text), Some(42 * 1024));
        assert_eq!(available("MemTotal: 100 kB\n"), None);
    }
}
