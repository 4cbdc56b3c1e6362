//! Free TCP ports on loopback, so that several control planes and nodes run side by side.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Result, bail};

/// Below the kernel's range for outgoing connections (from 32768 on): a server that is stopped finds its port free again
/// when it is started anew, and not in the hands of some client.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Ports given out by this process: one that is not listened on yet still looks free.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port of 127.0.0.1 that nothing listens on and that this process has not given out before.
///
/// # Errors
///
/// If there is none left.
pub fn free() -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Processes that start at the same time begin at different places.
    let count = LAST - FIRST;
    let start = u16::try_from(std::process::id().wrapping_mul(2_654_435_761) % u32::from(count))?;
    for offset in 0..count {
        let port = FIRST + (start + offset) % count;
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("no free TCP port between {FIRST} and {LAST} on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }
}
