//! The emulator's own control socket (QMP), for what no program inside can do to the machine.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::shell;

/// The socket's name in the node's folder.
pub(super) const SOCKET: &str = "monitor.sock";

/// Resets the machine in the middle of whatever it does. It starts again until [`end_on_reset`]: its firmware asks for a second reset
/// after this one.
pub(super) fn reset(dir: &Path) -> Result<()> {
    execute(dir, &[on_reset("reset"), json!({ "execute": "system_reset" })])
}

/// From now on the emulator ends where the machine is reset, as it does from its start: by that a machine that panics is found.
pub(super) fn end_on_reset(dir: &Path) -> Result<()> {
    execute(dir, &[on_reset("shutdown")])
}

fn on_reset(action: &str) -> Value {
    json!({ "execute": "set-action", "arguments": { "reboot": action } })
}

fn execute(dir: &Path, commands: &[Value]) -> Result<()> {
    let mut connection = shell::connect(dir, SOCKET)?;
    connection.get_mut().set_read_timeout(Some(Duration::from_mins(1)))?;
    for command in [&json!({ "execute": "qmp_capabilities" })].into_iter().chain(commands) {
        connection.get_mut().write_all(format!("{command}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line).with_context(|| format!("no answer to {command}"))? == 0 {
                bail!("QEMU has ended at {command}");
            }
            let said: Value = serde_json::from_str(&line)?;
            if let Some(error) = said.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            // Greetings and events come in between.
            if said.get("return").is_some() {
                break;
            }
        }
    }
    Ok(())
}
