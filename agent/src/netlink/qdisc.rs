//! Queueing disciplines (`RTM_*QDISC`, tc(8)).

use super::{Error, Netlink, link::LOOPBACK};
use crate::netem::Netem;
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, Nla};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption, TcStats2},
};
use nix::errno::Errno;
use std::fmt;

/// `TCA_OPTIONS` (include/uapi/linux/rtnetlink.h).
const TCA_OPTIONS: u16 = 2;

/// Kind of the emulator of networks, tc-netem(8).
pub const QDISC_NETEM: &str = "netem";
/// Kind of the bands that a packet's priority chooses, tc-prio(8).
pub const QDISC_PRIO: &str = "prio";
/// Kind of the token bucket, tc-tbf(8).
pub const QDISC_TBF: &str = "tbf";
/// Kind of the hook for received packets.
pub const QDISC_INGRESS: &str = "ingress";
/// Kind of the hook for received and sent packets. Takes the same place as [`QDISC_INGRESS`], which excludes it.
pub const QDISC_CLSACT: &str = "clsact";

/// Bands of our prio: the kernel's usual three, and one that nothing reaches by itself.
pub const PRIO_BANDS: u16 = 4;

/// Parent of the qdisc that an interface sends through (`TC_H_ROOT`).
pub const ROOT: Handle = Handle(0xffff_ffff);
/// Parent of [`QDISC_INGRESS`] and [`QDISC_CLSACT`] (`TC_H_INGRESS`).
pub const INGRESS_PARENT: Handle = Handle(0xffff_fff1);

/// Names a qdisc or a class: `major:minor`, written in hexadecimal as `tc` does. A qdisc's own handle has the minor 0; the kernel's
/// default qdiscs have the handle 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Handle(pub u32);

impl Handle {
    /// A class of this qdisc.
    #[must_use]
    pub const fn class(self, minor: u16) -> Self {
        Self(self.0 & 0xffff_0000 | minor as u32)
    }

    /// The handle of a qdisc.
    #[must_use]
    pub const fn of_major(major: u16) -> Self {
        Self((major as u32) << 16)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (self.0 >> 16, self.0 & 0xffff);
        write!(f, "{major:x}:")?;
        if minor == 0 { Ok(()) } else { write!(f, "{minor:x}") }
    }
}

/// A qdisc as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Qdisc {
    /// Index of its interface.
    pub ifindex: u32,
    /// Where it hangs.
    pub parent: Handle,
    /// Its name.
    pub handle: Handle,
    /// What it is.
    pub kind: String,
    /// Its options, where it is a netem whose options can be read.
    pub netem: Option<Netem>,
    /// Packets that passed it, modulo 2³².
    pub passed: u32,
    /// Packets dropped, modulo 2³².
    pub drops: u32,
    /// Packets that wait in it.
    pub waiting: u32,
}

impl Qdisc {
    /// Whether the kernel put it there by itself, so that it comes back when what replaced it goes.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.handle == Handle::default()
    }

    /// As the kernel tells of it; none where an answer is about something else.
    #[must_use]
    pub fn from_answer(answer: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { return None };
        let mut qdisc = Self {
            ifindex: message.header.index.cast_unsigned(),
            parent: Handle(message.header.parent.into()),
            handle: Handle(message.header.handle.into()),
            ..Self::default()
        };
        let mut options: &[TcOption] = &[];
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => qdisc.kind.clone_from(kind),
                TcAttribute::Options(parsed) => options = parsed,
                TcAttribute::Stats2(stats) => {
                    for stat in stats {
                        match stat {
                            TcStats2::Queue(queue) => (qdisc.drops, qdisc.waiting) = (queue.drops, queue.qlen),
                            TcStats2::Basic(basic) => qdisc.passed = basic.packets,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let (QDISC_NETEM, [TcOption::Other(raw)]) = (qdisc.kind.as_str(), options) {
            let mut bytes = vec![0; raw.value_len()];
            raw.emit_value(&mut bytes);
            qdisc.netem = Netem::decode(&bytes).ok();
        }
        Some(qdisc)
    }
}

fn message(ifindex: u32, parent: Handle, handle: Handle, kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::from(parent.0);
    message.header.handle = TcHandle::from(handle.0);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

/// The value of `TCA_OPTIONS` of a tbf (include/uapi/linux/pkt_sched.h).
fn tbf_options(longest: u32) -> Vec<u8> {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    const TCA_TBF_BURST: u16 = 6;
    /// Of `struct tc_ratespec`: no table of transmission times follows.
    const TC_LINKLAYER_ETHERNET: u8 = 1;
    /// 100 Gbit/s, in bytes a second.
    const RATE: u64 = 12_500_000_000;
    /// Of the queue that the netem takes the place of, in bytes.
    const LIMIT: u32 = 10_000_000;

    // struct tc_tbf_qopt: the rate, no peak rate, the limit, and a burst and an MTU for which attributes stand in.
    let rate = [&[0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0], u32::MAX.to_ne_bytes().as_slice()].concat();
    let qopt = [rate.as_slice(), &[0; 12], &LIMIT.to_ne_bytes(), &[0; 8]].concat();
    let attributes = [
        DefaultNla::new(TCA_TBF_PARMS, qopt),
        DefaultNla::new(TCA_TBF_RATE64, RATE.to_ne_bytes().to_vec()),
        DefaultNla::new(TCA_TBF_BURST, longest.to_ne_bytes().to_vec()),
    ];
    let mut bytes = vec![0; attributes.as_slice().buffer_len()];
    attributes.as_slice().emit(&mut bytes);
    bytes
}

impl Netlink {
    /// All qdiscs of the namespace.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn qdiscs(&self) -> Result<Vec<Qdisc>, Error> {
        let answers = self.dump(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
        Ok(answers.iter().filter_map(Qdisc::from_answer).collect())
    }

    /// Puts a netem at an interface's root or into a class.
    ///
    /// With a handle of our own the kernel refuses to replace somebody's root qdisc; without one it would replace it silently.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn add_netem(&self, ifindex: u32, parent: Handle, handle: Handle, netem: &Netem) -> Result<(), Error> {
        self.add(message(ifindex, parent, handle, QDISC_NETEM), netem.encode())
    }

    /// Puts a prio with [`PRIO_BANDS`] bands at an interface's root. Every packet goes to the first band, unless its priority names a
    /// class of this qdisc.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn add_root_prio(&self, ifindex: u32, handle: Handle) -> Result<(), Error> {
        // struct tc_prio_qopt: the number of bands, and the band of each of the 16 priorities.
        let mut options = u32::from(PRIO_BANDS).to_ne_bytes().to_vec();
        options.extend([0; 16]);
        self.add(message(ifindex, ROOT, handle, QDISC_PRIO), options)
    }

    /// Puts a tbf into a class, or at an interface's root, that takes super-packets longer than `longest` bytes apart into segments
    /// (`tbf_segment` in net/sched/sch_tbf.c) and holds nothing back: its rate is beyond what the interface reaches.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn add_tbf(&self, ifindex: u32, parent: Handle, handle: Handle, longest: u32) -> Result<(), Error> {
        self.add(message(ifindex, parent, handle, QDISC_TBF), tbf_options(longest))
    }

    fn add(&self, mut message: TcMessage, options: Vec<u8>) -> Result<(), Error> {
        // Raw: netlink-packet-route knows the options of neither, and would nest those of a parsed answer twice.
        message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
        self.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Puts an ingress qdisc on an interface.
    ///
    /// # Errors
    /// As any request (see [`Error`]).
    pub fn add_ingress(&self, ifindex: u32) -> Result<(), Error> {
        self.request(self.handle.qdisc().add(ifindex.cast_signed()).ingress().execute())
    }

    /// Whether the kernel has a kind of qdisc that does not do without options, or loads it now; none where it does not say. Asked by a
    /// request without options, which a kind that is known refuses.
    pub fn knows_qdisc(&self, kind: &str) -> Option<bool> {
        let message = message(LOOPBACK, ROOT, Handle::of_major(0x7a11), kind);
        match self.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL).err()?.errno()? {
            Errno::EINVAL => Some(true),
            Errno::ENOENT => Some(false),
            _ => None,
        }
    }

    /// Removes a qdisc, if it is the one named: by interface, place, handle and kind. One that is not there is fine.
    ///
    /// # Errors
    /// As any request (see [`Error`]); where another qdisc is in its place, the kernel's refusal.
    pub fn delete_qdisc(&self, qdisc: &Qdisc) -> Result<(), Error> {
        let message = message(qdisc.ifindex, qdisc.parent, qdisc.handle, &qdisc.kind);
        match self.change(RouteNetlinkMessage::DelQueueDiscipline(message), 0) {
            Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT)) => Ok(()),
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_written_as_tc_writes_them() {
        assert_eq!(Handle::of_major(0x7a11).to_string(), "7a11:");
        assert_eq!(Handle(0x7a11_0004).to_string(), "7a11:4");
        assert_eq!(ROOT.to_string(), "ffff:ffff");
    }
}
