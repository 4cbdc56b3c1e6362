//! When containerd did what, by its log.

use anyhow::{Context, Result};
use jiff::Timestamp;

/// Lines of the log, each with its time in seconds since the Unix epoch.
pub(super) struct Log(Vec<(f64, String)>);

/// When a container was asked for, and when its process.
pub(super) struct Begin {
    pub(super) created: f64,
    pub(super) started: f64,
}

impl Log {
    pub(super) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (time, rest) = line.strip_prefix("time=\"")?.split_once('"')?;
            let message = rest.split_once("msg=\"")?.1.replace("\\\"", "\"");
            Some((time.parse::<Timestamp>().ok()?.as_nanosecond() as f64 / 1e9, message))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// When a container of that name began.
    pub(super) fn begin(&self, container: &str) -> Result<Begin> {
        let name = format!("ContainerMetadata{{Name:{container},");
        let created = self.find(|message| message.starts_with("CreateContainer") && message.contains(&name))?;
        let returned = self.message(|message| message.contains(&name) && message.contains("returns container id"))?;
        let id = returned.rsplit("returns container id").next().and_then(|rest| rest.split('"').nth(1)).context("no container id")?;
        let started = self.find(|message| message.starts_with("StartContainer for") && message.contains(id))?;
        Ok(Begin { created, started })
    }

    /// When the pull of an image began, and when it ended.
    pub(super) fn pull(&self, image: &str) -> Result<[f64; 2]> {
        let of_image = |message: &str| message.starts_with("PullImage") && message.contains(image);
        Ok([self.find(of_image)?, self.find(|message| of_image(message) && message.contains("returns image reference"))?])
    }

    fn find(&self, is: impl Fn(&str) -> bool) -> Result<f64> {
        self.0.iter().find(|(_, message)| is(message)).map(|(time, _)| *time).with_context(|| self.without())
    }

    fn message(&self, is: impl Fn(&str) -> bool) -> Result<&str> {
        self.0.iter().map(|(_, message)| message.as_str()).find(|message| is(message)).with_context(|| self.without())
    }

    fn without(&self) -> String {
        format!("containerd's log has no such line: {:#?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_begin_of_a_container_is_read_from_the_log() {
        let log = Log::parse(
            r#"time="2026-11-26T05:00:00.5Z" level=info msg="PullImage \"10.0.2.2:5000/agent:3\""
time="2026-11-26T05:00:01Z" level=info msg="PullImage \"10.0.2.2:5000/agent:3\" returns image reference \"sha256:abc\""
time="2026-11-26T05:00:02Z" level=info msg="CreateContainer within sandbox \"s\" for container &ContainerMetadata{Name:netloss-1,Attempt:0,}"
time="2026-11-26T05:00:03Z" level=info msg="CreateContainer within sandbox \"s\" for &ContainerMetadata{Name:netloss-1,Attempt:0,} returns container id \"f00\""
time="2026-11-26T05:00:04Z" level=info msg="StartContainer for \"f00\""
time="2026-11-26T05:00:05Z" level=info msg="StartContainer for \"f00\" returns successfully"
"#,
        );
        let second = "2026-11-26T05:00:00Z".parse::<Timestamp>().unwrap().as_second() as f64;
        let begin = log.begin("netloss-1").unwrap();
        assert_eq!([begin.created, begin.started].map(|time| (time - second).to_string()), ["2", "4"]);
        assert_eq!(log.pull("10.0.2.2:5000/agent:3").unwrap().map(|time| (time - second).to_string()), ["0.5", "1"]);
        assert!(log.begin("netloss").is_err());
    }
}
