//! The one program of the lab's own image: two pods exchange numbered packets with it, and pods are held open by it.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, Subcommand};
use netloss_lab_traffic::{attempts, echo, probe, watch};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Numbered UDP packets between two pods; each side writes a JSON line a second about what arrived.
#[derive(Parser)]
#[command(name = "traffic", version)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Answers every packet that arrives.
    Echo {
        /// The UDP port to listen on.
        #[arg(long, default_value_t = 9000)]
        port: u16,
    },
    /// Sends packets at a steady pace and counts the answers.
    Probe {
        /// Where the answering side listens.
        #[arg(long, value_name = "IP:PORT")]
        to: SocketAddr,
        /// The time between two packets.
        #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = parse_interval)]
        interval: Duration,
    },
    /// Sends packets at a steady pace, and writes a line when they begin to be lost, all of them, and when they cease to be.
    Watch {
        /// Where the answering side listens.
        #[arg(long, value_name = "IP:PORT")]
        to: SocketAddr,
        /// The time between two packets.
        #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = parse_interval)]
        interval: Duration,
    },
    /// Does nothing, and ends by itself after a while.
    Idle {
        /// How long.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_interval)]
        time: Duration,
    },
    /// Takes all the processor time that it gets.
    Burn,
    /// Takes memory, and keeps it in use.
    Hold {
        /// How much.
        #[arg(long, value_name = "MIB")]
        mebibytes: usize,
    },
    /// Clients of an abstract Unix socket that say nothing: more than wait there at a time. Ends by itself after a while.
    Crowd {
        /// The socket's name.
        #[arg(long)]
        name: String,
        /// How long.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_interval)]
        time: Duration,
    },
    /// Tries what code in a container is not to succeed with, says what came of it, and ends.
    Attempt,
    /// Does nothing until it is ended: holds a pod's namespaces open, as the container runtime's sandbox image must.
    Pause,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn run(mode: &Mode) -> io::Result<()> {
    // Before there is another thread: the kernel refuses some of it to processes that have several.
    if let Mode::Attempt = mode {
        return writeln!(io::stdout(), "{}", attempts());
    }
    // As a pod's first process nothing ends it by default: the kernel drops signals that PID 1 has no handler for.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    match mode {
        &Mode::Echo { port } => in_background(move || echo((any_address(), port).into(), write)),
        &Mode::Probe { to, interval } => in_background(move || probe(to, interval, write)),
        &Mode::Watch { to, interval } => in_background(move || watch(to, interval, write)),
        &Mode::Idle { time } => end_after(time),
        Mode::Burn => in_background(|| {
            loop {
                std::hint::spin_loop();
            }
        }),
        &Mode::Hold { mebibytes } => in_background(move || hold(mebibytes)),
        Mode::Crowd { name, time } => {
            crowd(name)?;
            end_after(*time);
        }
        Mode::Attempt | Mode::Pause => {}
    }
    signals.forever().next();
    Ok(())
}

fn end_after(time: Duration) {
    in_background(move || {
        thread::sleep(time);
        std::process::exit(0)
    });
}

/// Each comes again when it was sent away.
fn crowd(name: &str) -> io::Result<()> {
    const CLIENTS: usize = 100;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    for _ in 0..CLIENTS {
        let address = address.clone();
        thread::spawn(move || {
            loop {
                if let Ok(mut client) = UnixStream::connect_addr(&address) {
                    drop(io::copy(&mut client, &mut io::sink()));
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
    }
    Ok(())
}

fn in_background(work: impl FnOnce() -> io::Result<()> + Send + 'static) {
    thread::spawn(move || {
        if let Err(error) = work() {
            // The signal loop of the main thread would wait for ever.
            failed(&error);
            std::process::exit(1);
        }
    });
}

/// Writes to every page again and again, so that none can be taken back.
fn hold(mebibytes: usize) -> io::Result<()> {
    const PAGE: usize = 4096;
    let mut memory = vec![0_u8; mebibytes * 1024 * 1024];
    loop {
        memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = byte.wrapping_add(1));
        thread::sleep(Duration::from_secs(1));
    }
}

fn failed(error: &io::Error) -> ExitCode {
    eprintln!("traffic: {error}");
    ExitCode::FAILURE
}

/// All addresses of both families, where the pod has both.
fn any_address() -> IpAddr {
    if Path::new("/proc/net/if_inet6").exists() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

fn write(line: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")
}

/// A time such as `5ms` or `1s`.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 5ms or 1s");
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let interval = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    if interval.is_zero() { Err("a pace of no time at all would send without end".into()) } else { Ok(interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        assert_eq!(parse_interval("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(parse_interval("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["5", "ms", "", "5m", "-5ms", "0ms", "1.5s"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }
}
