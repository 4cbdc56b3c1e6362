//! What holds of any bytes: of those that libFuzzer makes up, and of the seeds, which the tests run too.

use netloss_agent::{control, netem::Netem};
use netloss_contract::{LINE_LIMIT, REQUEST_LIMIT, Record};
use std::{io::Write, os::unix::net::UnixStream};
use tokio::sync::mpsc;

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
        assert!(written.len() <= LINE_LIMIT || line.len() > LINE_LIMIT, "{} bytes", written.len());
        assert!(Record::from_line(&written).is_some(), "{written}");
    }
}

/// Whoever speaks to the socket, in whatever way, is heard at most once, and let go.
pub fn control(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("no runtime");
    runtime.block_on(async {
        let (mut client, server) = UnixStream::pair().expect("no sockets");
        // A socket takes this much without anybody reading.
        client.write_all(&bytes[..bytes.len().min(16 * 1024)]).expect("not written");
        client.shutdown(std::net::Shutdown::Write).expect("not shut down");
        server.set_nonblocking(true).expect("still blocking");
        let server = tokio::net::UnixStream::from_std(server).expect("no runtime for it");
        let (visits, mut heard) = mpsc::channel(2);
        let serve = async move { control::serve(&server, &visits).await };
        // Nothing comes where the other side has ended. A visit that is dropped is answered with the end of the connection.
        let hear = async { heard.recv().await.map(|visit| visit.request.to_line()) };
        let (ended, request) = tokio::join!(serve, hear);
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        assert_eq!(ended.is_ok(), request.is_some(), "{line:?}");
        assert!(request.is_none() || line.len() <= REQUEST_LIMIT, "{line:?}");
    });
}
