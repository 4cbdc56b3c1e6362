//! Reading a guest's console: what is its payload's output, what are its marks, and whether the kernel died.

/// A line of the console.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// The kernel's release, once it is up.
    Kernel(&'a str),
    /// The payload's exit code, at the end.
    Exit(u8),
    /// Something that the kernel survived and should not have met.
    Complaint(&'a str),
    /// Anything else.
    Text(&'a str),
}

impl<'a> Line<'a> {
    /// Tells what a line is. The marks are those of `init.sh`.
    pub(super) fn parse(line: &'a str) -> Self {
        let Some((_, mark)) = line.split_once("netloss-guest: ") else { return Self::Text(line) };
        match mark.split_once(' ') {
            Some(("kernel", release)) => Self::Kernel(release),
            Some(("complaint", message)) => Self::Complaint(message),
            Some(("exit", code)) => code.parse().map_or(Self::Text(line), Self::Exit),
            _ => Self::Text(line),
        }
    }
}

/// Whether the kernel died of QEMU 7.2's one known defect without KVM: an int3, left over from patching a static key,
/// is executed. It has nothing to do with what runs in the guest.
pub(crate) fn is_emulator_defect(console: &str) -> bool {
    console.contains("int3: 0000 [#1]")
}

/// Whether the kernel itself died.
pub(super) fn is_kernel_death(console: &str) -> bool {
    ["Kernel panic - not syncing", "Oops: ", "Internal error: "].iter().any(|sign| console.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_text() {
        assert_eq!(Line::parse("netloss-guest: kernel 6.1.0-50-cloud-amd64"), Line::Kernel("6.1.0-50-cloud-amd64"));
        assert_eq!(Line::parse("netloss-guest: exit 101"), Line::Exit(101));
        assert_eq!(Line::parse("test a ... netloss-guest: exit 7"), Line::Exit(7), "after a line that the payload left unfinished");
        assert_eq!(Line::parse("test loss ... ok"), Line::Text("test loss ... ok"));
    }

    #[test]
    fn only_the_known_signature_is_the_emulators() {
        assert!(is_emulator_defect("[    0.9] int3: 0000 [#1] PREEMPT SMP"));
        assert!(!is_emulator_defect("[    0.9] BUG: unable to handle page fault\n[    0.9] Oops: 0000 [#1] SMP"));
        assert!(is_kernel_death("[    0.9] Kernel panic - not syncing: Attempted to kill init!"));
    }
}
