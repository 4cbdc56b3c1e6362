//! Speed, weight and exactness, measured against what somebody would use instead.
//!
//! A benchmark is an entry of [`BENCHES`]: a function that measures and returns a [`Report`]. Whatever is done with reports is
//! done here for all of them: the JSON file, the section of docs/PERFORMANCE.md, the plot, the words on goals.

mod controller;
mod datapath;
mod document;
mod machine;
mod node;
mod plot;
mod scale;
mod start;
mod weight;

pub use document::{publish, section, stored, with_section};
pub use netloss_lab_measure::{Report, figure};

/// How thoroughly is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Enough samples for a document.
    Full,
    /// As few as tell a regression from noise, for continuous integration.
    Small,
}

impl Size {
    /// One of two numbers.
    #[must_use]
    pub fn pick<T>(self, full: T, small: T) -> T {
        match self {
            Self::Full => full,
            Self::Small => small,
        }
    }
}

/// A benchmark.
#[derive(Debug)]
pub struct Bench {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub what: &'static str,
    /// Whether it is small enough, and its guards are, for continuous integration.
    pub guards: bool,
    /// Measures.
    pub run: fn(Size) -> anyhow::Result<Report>,
}

/// All of them.
pub const BENCHES: &[Bench] = &[
    Bench { name: "start", what: "start to applied and stop to clean, against sh + iproute2", guards: true, run: start::measure },
    Bench {
        name: "scale",
        what: "the controller with up to 5 000 pods, against one request after the other",
        guards: true,
        run: scale::measure,
    },
    Bench { name: "bystanders", what: "the controller among pods that are none of its targets", guards: false, run: scale::bystanders },
    Bench { name: "share", what: "where the time of the agent's start goes", guards: false, run: start::share },
    Bench { name: "weight", what: "image, memory and work while the loss is in place", guards: true, run: weight::measure },
    Bench { name: "datapath", what: "what a packet costs that meets the loss", guards: false, run: datapath::measure },
    Bench { name: "pull", what: "from the pull of an image to the first packet lost, on a node", guards: false, run: node::pull },
    Bench { name: "reaction", what: "from apply, delete and SIGKILL until packets fare otherwise", guards: false, run: node::reaction },
    Bench { name: "exactness", what: "what is lost, against what was asked for", guards: false, run: datapath::exactness },
];
