//! What code in a container gets at, tried from inside: for the tests of what an agent that was taken over could do.

use std::fs::{self, OpenOptions};
use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Uid, chroot, setuid};
use serde_json::{Value, json};

/// What came of each attempt (`done`, or the kernel's word), and what the kernel shows of this process and its surroundings.
#[must_use]
pub fn attempts() -> Value {
    let tmpfs = || mount(None::<&str>, "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>);
    let packets = || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let icmp = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp);
    let write = |path: &str| OpenOptions::new().write(true).open(path).map(drop);
    json!({
        "attempts": {
            "mount": by_kernel(tmpfs()),
            "user namespace": by_kernel(unshare(CloneFlags::CLONE_NEWUSER)),
            "network namespace": by_kernel(unshare(CloneFlags::CLONE_NEWNET)),
            "mount namespace": by_kernel(unshare(CloneFlags::CLONE_NEWNS)),
            "module": by_kernel(nix::kmod::init_module(b"none", c"")),
            "packet socket": by_kernel(packets()),
            "raw socket": by_kernel(icmp()),
            "device": by_kernel(mknod("/dev/shm/attempt", SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 1))),
            "chroot": by_kernel(chroot("/proc")),
            "another user": by_kernel(setuid(Uid::from_raw(1))),
            "root file system": outcome(fs::write("/attempt", "")),
            "kernel settings": outcome(write("/proc/sys/kernel/core_pattern")),
            "devices": outcome(fs::read("/dev/mem")),
            "service account": outcome(fs::read("/var/run/secrets/kubernetes.io/serviceaccount/token")),
            "volume": outcome(fs::read_dir("/data")),
        },
        "hosts": outcome(write("/etc/hosts")),
        "status": fs::read_to_string("/proc/self/status").unwrap_or_default(),
        "mounts": fs::read_to_string("/proc/self/mounts").unwrap_or_default(),
        "processes": processes(),
        "environment": std::env::vars().map(|(name, _)| name).collect::<Vec<_>>(),
    })
}

fn by_kernel<T>(result: nix::Result<T>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |_| "done".to_owned())
}

fn outcome<T>(result: io::Result<T>) -> String {
    by_kernel(result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default())))
}

/// The names of all processes that are to be seen.
fn processes() -> Vec<String> {
    let is_process = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().bytes().all(|digit| digit.is_ascii_digit());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten().filter(is_process);
    entries.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok()).map(|name| name.trim_end().to_owned()).collect()
}
