//! The emulator's own control socket (QMP), for what no program inside can do to the machine.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::shell;

/// The socket's name in the node's folder.
pub(super) const SOCKET: &str = "monitor.sock";

/// Resets the machine in the middle of whatever it does. A reset by the machine itself goes on to end the emulator, by which
/// panics are found.
pub(super) fn reset(dir: &Path) -> Result<()> {
    let mut connection = shell::connect(dir, SOCKET)?;
    connection.get_mut().set_read_timeout(Some(Duration::from_mins(1)))?;
    let mut execute = |command: Value| -> Result<()> {
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
            if said.get("return").is_some() {
                return Ok(());
            }
        }
    };
    execute(json!({ "execute": "qmp_capabilities" }))?;
    execute(json!({ "execute": "set-action", "arguments": { "reboot": "reset" } }))?;
    // The action that counts is the one when the reset is asked for.
    execute(json!({ "execute": "system_reset" }))?;
    execute(json!({ "execute": "set-action", "arguments": { "reboot": "shutdown" } }))
}
