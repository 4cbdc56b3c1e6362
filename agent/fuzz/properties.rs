//! What holds of any bytes: of those that libFuzzer makes up, and of the seeds, which the tests run too.

use clap::Parser;
use netlink_packet_core::{DefaultNla, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{Expressions, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableFlags, TableMessage},
};
use netlink_packet_route::RouteNetlinkMessage;
use netloss_agent::{
    cli::{Cli, Command},
    control,
    netem::Netem,
    netlink::{self, DefaultRoute, Filter, Link, Qdisc},
    nft::Told,
};
use netloss_contract::{BackendChoice, Filters, LINE_LIMIT, LossModel, REQUEST_LIMIT, Record, Request, RunArgs, is_unprintable};
use std::{
    ffi::OsString,
    io::Write,
    os::unix::{ffi::OsStringExt, net::UnixStream},
};

/// Options of a netem that can be read are written as they are understood.
pub fn netem(bytes: &[u8]) {
    if let Ok(netem) = Netem::decode(bytes) {
        let again = Netem::decode(&netem.encode()).expect("what was written cannot be read");
        assert_eq!(again, netem);
        assert!(netem.has_the_effect_of(&again));
    }
}

/// A record that can be read is written as a line that can be read, and is not too long.
pub fn record(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    if let Some(record) = Record::from_line(line) {
        let written = record.to_line();
        assert!(written.len() <= LINE_LIMIT, "{} bytes", written.len());
        assert!(Record::from_line(&written).is_some(), "{written}");
        assert!(!written.contains(is_unprintable), "not one printable line: {written}");
    }
}

/// What stands for a word of the command line, by its first byte: made-up bytes would hardly ever come to a whole argument.
const WORDS: [&str; 44] = [
    "run",
    "plan",
    "stop",
    "cleanup",
    "status",
    "check",
    "--json",
    "--log=info",
    "--loss=",
    "--loss=10",
    "--ttl=",
    "--ttl=2m",
    "--correlation=",
    "--burst=",
    "--model=",
    "--model=random",
    "--model=gilbert",
    "--model=gemodel,",
    "--model=state,",
    "--model",
    "gemodel",
    "state",
    "--direction=",
    "--direction=egress",
    "--seed=",
    "--per-segment",
    "--target=",
    "--target=10.0.0.0/8:",
    "--target=[2001:db8::/32]:",
    "--target=any:",
    "--spare=",
    "--spare=any/",
    "--spare-node=",
    "--spare-node=192.0.2.1,",
    "--spare-neighbour",
    "--deadline=",
    "--deadline=2026-11-26T12:00:00Z",
    "--run=",
    "--interface=",
    "--backend=",
    "--heartbeat=",
    "--allow-host-network",
    "--timeout=",
    "--force",
];

/// Words with a NUL between them, as /proc shows a command line. One that begins with a byte that is no ASCII begins with one of [`WORDS`].
fn words(bytes: &[u8]) -> Vec<OsString> {
    let word = |word: &[u8]| match word {
        [first @ (0x80..), rest @ ..] => {
            let known = WORDS[usize::from(*first - 0x80) % WORDS.len()];
            OsString::from_vec([known.as_bytes(), rest].concat())
        }
        other => OsString::from_vec(other.to_vec()),
    };
    bytes.split(|byte| *byte == 0).map(word).collect()
}

fn parsed(words: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    Cli::try_parse_from(std::iter::once("netloss-agent".into()).chain(words)).map(|cli| cli.command)
}

fn reparsed(argv: &[String]) -> Command {
    parsed(argv.iter().map(OsString::from)).unwrap_or_else(|error| panic!("{argv:?}: {error}"))
}

/// Arguments that can be read are within their ranges, and are written as arguments that are read as the same. Others are refused in words.
pub fn argv(bytes: &[u8]) {
    match parsed(words(bytes)) {
        Ok(Command::Run(args)) => {
            within_its_ranges(&args);
            let Command::Run(again) = reparsed(&args.to_argv()) else { panic!("{args:?}") };
            assert_eq!(again, args);
        }
        Ok(Command::Plan(args)) => within_its_ranges(&args),
        Ok(Command::Stop(args)) => {
            let Command::Stop(again) = reparsed(&args.to_argv()) else { panic!("{args:?}") };
            assert_eq!(again, args);
        }
        Ok(Command::Cleanup(args)) => {
            let Command::Cleanup(again) = reparsed(&args.to_argv()) else { panic!("{args:?}") };
            assert_eq!(again, args);
        }
        Ok(Command::Check { .. } | Command::Status { .. }) => {}
        Err(error) => assert!(!error.to_string().is_empty() && [0, 2].contains(&error.exit_code()), "{error}"),
    }
}

fn within_its_ranges(args: &RunArgs) {
    let asked = args.model.asked_percentage();
    assert!((0.0..=100.0).contains(&asked) && asked > 0.0, "{args:?}");
    if let Some(predicted) = args.model.predicted() {
        // By formula, so not to the last digit.
        assert!((0.0..=100.001).contains(&predicted.loss_percentage), "{args:?}: {predicted:?}");
    }
    let seconds = args.ttl.duration().as_secs();
    assert!((1..=168 * 3600).contains(&seconds), "{args:?}");
    assert!((1..=3600).contains(&args.heartbeat.duration().as_secs()), "{args:?}");
    if args.check().is_ok() {
        let Filters { targets, spares, spare_node, .. } = &args.filters;
        assert!(targets.len() + spares.len() + spare_node.len() <= Filters::MAX, "{args:?}");
        assert!(args.backend != BackendChoice::Tc || args.filters.is_empty(), "{args:?}");
        // netem is told what was asked for, and reads it back.
        let netem = Netem::of(&args.model, args.seed);
        assert_eq!(Netem::decode(&netem.encode()).as_ref(), Ok(&netem));
        assert!(!matches!(args.model, LossModel::Random { .. }) || netem.loss.0 > 0 || asked < 1e-7, "nothing is lost: {args:?}");
    }
}

/// What one of the kernel's messages is about: links, routes, qdiscs, filters, an error, the end, anything.
const KINDS: [u16; 7] = [16, 17, 24, 36, 44, 2, 3];

/// Messages of the kernel with well-formed headers: a byte for the kind, one for the flags, one for the length in words, and the content.
fn datagram(mut bytes: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    while let [kind, flags, words, rest @ ..] = bytes {
        let (content, next) = rest.split_at(rest.len().min(usize::from(*words) * 4));
        let kind = KINDS.get(usize::from(*kind)).copied().unwrap_or(u16::from(*kind));
        let length = u32::try_from(16 + content.len()).expect("it is short");
        datagram.extend(length.to_ne_bytes());
        datagram.extend(kind.to_ne_bytes());
        datagram.extend(u16::from(*flags).to_ne_bytes());
        datagram.extend([0; 8]);
        datagram.extend(content);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        bytes = next;
    }
    datagram
}

/// Tables and rules as the kernel lists them, of which some are ours, their counters of any bytes.
fn ruleset(mut bytes: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    while let [kind, name, chain, rest @ ..] = bytes {
        let (value, next) = rest.split_at(rest.len().min(usize::from(*kind >> 4)));
        let name = ["netloss", "filter", ""][usize::from(*name) % 3].to_owned();
        let family = [NetfilterProtoFamily::NetDev, NetfilterProtoFamily::Inet][usize::from(*chain) % 2];
        let message = if kind % 2 == 0 {
            let flags = TableAttribute::Flags(TableFlags::from_bits_retain(u32::from(*chain)));
            NfTablesMessage::NewTable(TableMessage { attributes: vec![TableAttribute::Name(name), flags] })
        } else {
            let chain = ["in", "eg", "other"][usize::from(*chain) % 3].to_owned();
            let attributes = vec![DefaultNla::new(1 + u16::from(kind >> 1) % 2, value.to_vec()), DefaultNla::new(2, value.to_vec())];
            let counter = Expressions::Other { expression_type: "counter".to_owned(), attributes };
            let counters = RuleAttribute::Expressions(vec![counter.into()]);
            NfTablesMessage::NewRule(RuleMessage { attributes: vec![RuleAttribute::Table(name), RuleAttribute::Chain(chain), counters] })
        };
        let mut message = NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message));
        message.finalize();
        let begin = datagram.len();
        datagram.resize(begin + message.buffer_len(), 0);
        message.serialize(&mut datagram[begin..]);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        bytes = next;
    }
    datagram
}

/// What the kernel tells is read to its end, and a qdisc is a netem only where the kernel says so. The first byte says what is told: of
/// tables, with the header of one message changed or the end cut off; or of the rest, with headers that are made for it, or none.
pub fn kernel(bytes: &[u8]) {
    let Some((form, rest)) = bytes.split_first() else { return };
    match (form % 3, rest) {
        (2, [at, with, keep, rest @ ..]) => {
            let mut datagram = ruleset(rest);
            if let Some(byte) = datagram.get_mut(usize::from(at % 16)) {
                *byte ^= with;
            }
            datagram.truncate(datagram.len().saturating_sub(usize::from(*keep) / 4));
            of_nftables(&datagram);
        }
        (0, rest) => {
            let datagram = datagram(rest);
            of_rtnetlink(&datagram);
            of_nftables(&datagram);
        }
        _ => {
            of_rtnetlink(rest);
            of_nftables(rest);
        }
    }
}

fn of_nftables(datagram: &[u8]) {
    if let Ok(Told { tables, owned, .. }) = Told::by(datagram) {
        assert!(owned <= tables);
    }
}

fn of_rtnetlink(datagram: &[u8]) {
    let kind = datagram.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    assert!(netlink::deleted_link(datagram).is_none() || kind == Some(17), "{datagram:?}");
    // As netlink-proto splits what it receives.
    let mut rest = datagram;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).max(16).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        let NetlinkPayload::InnerMessage(answer) = message.payload else { continue };
        let found = [
            Link::from_answer(&answer).is_some(),
            !DefaultRoute::from_answer(&answer).is_empty(),
            Filter::from_answer(&answer).is_some(),
            Qdisc::from_answer(&answer).is_some(),
        ];
        assert!(found.iter().filter(|found| **found).count() <= 1, "{answer:?}");
        if let Some(qdisc) = Qdisc::from_answer(&answer) {
            assert!(qdisc.netem.is_none() || qdisc.kind == netlink::QDISC_NETEM, "{qdisc:?}");
        }
    }
}

/// Whoever speaks to the socket, in whatever way and pieces, is heard at most once, and let go.
pub fn control(bytes: &[u8]) {
    let (mut client, server) = UnixStream::pair().expect("no sockets");
    server.set_nonblocking(true).expect("still blocking");
    // A socket takes this much without anybody reading.
    let bytes = &bytes[..bytes.len().min(16 * 1024)];
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let mut said = Vec::new();
    client.write_all(first).expect("not written");
    let early = control::request(&server, &mut said);
    client.write_all(rest).expect("not written");
    client.shutdown(std::net::Shutdown::Write).expect("not shut down");
    // Who has said all is asked no more, and the end is all that can be said.
    let request = early.or_else(|| control::request(&server, &mut said)).expect("it may say more").ok();
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let known = std::str::from_utf8(line).ok().and_then(Request::from_line);
    assert_eq!(request, known, "{line:?}");
    assert!(request.is_none() || line.len() <= REQUEST_LIMIT, "{line:?}");
}
