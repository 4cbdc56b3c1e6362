//! Debian's kernels in QEMU, with a static binary as their work.
//!
//! The machine's own kernel may lack netem, and one kernel is not what users have. A guest is a Debian cloud kernel of some
//! suite and architecture with an initramfs made of that suite's own iproute2 and modules; it boots in seconds, without KVM.

pub mod agent;
pub(crate) mod console;
pub(crate) mod cpio;
mod guest;
mod initramfs;
mod libraries;
pub mod matrix;
mod modules;
mod payload;
mod tools;
pub(crate) mod tree;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

pub use guest::{Guest, Outcome};
pub use payload::Payload;
pub use tools::Tools;

use crate::host::needs::Needs;

/// For all kernels, and beside it for those of 64-bit ARM.
const NEEDS: Needs = Needs::new("kernel", include_str!("kernel.needs"));
const NEEDS_ARM64: Needs = Needs::new("kernel-arm64", include_str!("kernel-arm64.needs"));

/// An architecture that netloss ships for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// The architecture as Debian names it.
    #[must_use]
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The Rust target whose static binaries run in its guests.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            _ => bail!("the lab has kernels for x86_64 and aarch64, not for {name:?}"),
        }
    }
}

/// The processor that x86 guests are given, as QEMU names it.
///
/// Without `cx16`, as QEMU 7.2 miscomputes flags after cmpxchg16b, and the guest panics at random. The others are what QEMU emulates slowly and
/// guests would prefer: vectors of 256 bits, and the string instructions that move one byte at a time.
pub(crate) const X86_CPU: &str = "Haswell-noTSX,-cx16,-avx,-avx2,-erms";

/// A suite of Debian, which stands for a kernel version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 11: Linux 5.10.
    Bullseye,
    /// Debian 12: Linux 6.1.
    Bookworm,
    /// Debian 13: Linux 6.12.
    Trixie,
    /// The newest kernel that Debian 13 is given: Linux 7.3 when this was written.
    Backports,
}

impl Suite {
    /// The suite as Debian's archive names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Backports => "trixie-backports",
        }
    }

    /// The suite that all else is from: backports are additions to one.
    #[must_use]
    pub fn base(self) -> Self {
        match self {
            Self::Backports => Self::Trixie,
            whole => whole,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "bullseye" | "5.10" => Ok(Self::Bullseye),
            "bookworm" | "6.1" => Ok(Self::Bookworm),
            "trixie" | "6.12" => Ok(Self::Trixie),
            "trixie-backports" | "backports" => Ok(Self::Backports),
            _ => bail!("the lab has the kernels bullseye (5.10), bookworm (6.1), trixie (6.12) and backports (the newest), not {name:?}"),
        }
    }
}

/// One kernel of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// The suite it is from.
    pub suite: Suite,
    /// What it runs on.
    pub arch: Arch,
}

impl Kernel {
    /// All of them, which `cargo lab kernel` runs on.
    pub const ALL: [Self; 6] = [
        Self { suite: Suite::Bullseye, arch: Arch::X86_64 },
        Self { suite: Suite::Bookworm, arch: Arch::X86_64 },
        Self { suite: Suite::Trixie, arch: Arch::X86_64 },
        Self { suite: Suite::Trixie, arch: Arch::Aarch64 },
        Self { suite: Suite::Backports, arch: Arch::X86_64 },
        Self { suite: Suite::Backports, arch: Arch::Aarch64 },
    ];

    /// What `tests/lab test` runs on. The node of the cluster tests has 6.12 on x86_64.
    pub const ONE: [Self; 1] = [Self { suite: Suite::Bookworm, arch: Arch::X86_64 }];

    /// What continuous integration adds: the oldest that netloss supports, and another architecture.
    pub const MORE: [Self; 2] = [Self { suite: Suite::Trixie, arch: Arch::Aarch64 }, Self { suite: Suite::Bullseye, arch: Arch::X86_64 }];

    /// Makes everything that a guest of this kernel needs, unless it is there: kernel, initramfs.
    ///
    /// # Errors
    ///
    /// If a program is missing, or something cannot be fetched or built.
    pub fn prepare(self) -> Result<Guest> {
        NEEDS.require()?;
        if self.arch == Arch::Aarch64 {
            NEEDS_ARM64.require()?;
        }
        Guest::new(self).with_context(|| format!("cannot prepare the kernel {self}"))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.suite, self.arch)
    }
}

/// What of this process's environment a guest gets: how the harness and the programs are to behave.
#[must_use]
pub fn forwarded_environment() -> Vec<(String, String)> {
    const PREFIXES: [&str; 6] = ["NETLOSS_", "PROPTEST_", "RUST_BACKTRACE", "RUST_LIB_BACKTRACE", "RUST_LOG", "RUST_TEST_"];
    // The values of these are about this machine.
    const HERE: [&str; 3] = ["NETLOSS_AGENT", "NETLOSS_GUEST_LIMIT", "NETLOSS_KERNEL"];
    let wanted = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !HERE.contains(&name);
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    variables.filter(|(name, _)| wanted(name)).collect()
}
