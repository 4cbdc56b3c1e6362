//! `cargo lab kernel`: the kernel tests on the kernels of the matrix.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use netloss_lab::kernel::{Arch, Kernel, Suite, matrix};

/// Run the kernel tests, all or those whose names contain a FILTER
///
/// Builds the agent and the tests, boots each kernel in QEMU and runs the tests in it as root. Without options on
/// bullseye/x86_64, bookworm/x86_64, and trixie and backports (the newest) on x86_64 and aarch64.
#[derive(Debug, clap::Args)]
pub(crate) struct KernelTests {
    /// Only kernels of this Debian suite; may be repeated
    #[arg(long = "suite", value_name = "SUITE")]
    suites: Vec<Suite>,
    /// Only kernels of this architecture; may be repeated
    #[arg(long = "arch", value_name = "ARCH")]
    archs: Vec<Arch>,
    /// Names, or parts of names, of tests; after `--` anything that a Rust test binary understands
    #[arg(value_name = "FILTER", allow_hyphen_values = true)]
    filters: Vec<OsString>,
}

impl KernelTests {
    /// Runs the command. It fails if a test does.
    ///
    /// # Errors
    ///
    /// If something cannot be built or prepared.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let kernels = self.kernels();
        ensure!(!kernels.is_empty(), "no kernel of the matrix has the suite and the architecture asked for");
        let reports = matrix::run(&kernels, &self.filters)?;
        println!();
        for report in &reports {
            println!("{}", report.summary());
        }
        let success = reports.iter().all(matrix::Report::is_success);
        Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn kernels(&self) -> Vec<Kernel> {
        let wanted = |kernel: &Kernel| {
            (self.suites.is_empty() || self.suites.contains(&kernel.suite)) && (self.archs.is_empty() || self.archs.contains(&kernel.arch))
        };
        Kernel::ALL.into_iter().filter(wanted).collect()
    }
}
