//! `cargo lab guest`: cargo's runner for the static targets.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use netloss_lab::kernel::{Arch, Kernel, Payload, Suite, agent, forwarded_environment};

/// Run a static binary in a kernel guest; cargo calls this for the musl targets
///
/// Whatever cargo tests or runs for a musl target runs as root in a fresh QEMU guest with a Debian kernel:
///
///   NETLOSS_KERNEL=bookworm cargo test --target x86_64-unknown-linux-musl -p netloss-lab-guest --test kernel loss_10
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Guest {
    /// The architecture of the guest: x86_64 or aarch64
    #[arg(long)]
    arch: Arch,
    /// The Debian suite of its kernel: bullseye (5.10), bookworm (6.1), trixie (6.12) or backports (the newest)
    #[arg(long, env = "NETLOSS_KERNEL", default_value_t = Suite::Trixie)]
    suite: Suite,
    /// The static executable
    binary: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Guest {
    /// Runs the command. The exit code is the payload's.
    ///
    /// # Errors
    ///
    /// If the guest cannot be prepared or does not come to its end.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let kernel = Kernel { suite: self.suite, arch: self.arch };
        let environment = forwarded_environment();
        let mut payload = Payload { binary: self.binary, arguments: self.arguments, environment, ..Payload::default() };
        agent::add_to(&mut payload, self.arch)?;
        let outcome = kernel.prepare()?.run(&payload, |line| println!("{line}"))?;
        eprintln!("{kernel}: {}, {:.1} s", outcome.release, outcome.elapsed.as_secs_f64());
        Ok(ExitCode::from(outcome.code))
    }
}
