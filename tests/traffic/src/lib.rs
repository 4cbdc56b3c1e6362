//! What lab pods talk about: numbered UDP packets both ways, and once a second a line about how many of them arrived.
//!
//! Loss is what the *receiver* does not see, so each side counts what arrives from its peer and tells the peer with every
//! packet that it sends. Either side thereby knows both directions, told apart, although the network between them loses
//! packets. The lines go to stdout and so travel through the kubelet, not through the lossy network.

mod attempts;
mod echo;
mod flow;
mod packet;
mod probe;
mod report;
mod watch;
mod window;

pub use self::attempts::attempts;
pub use self::echo::echo;
pub use self::probe::probe;
pub use self::report::{Direction, Line};
pub use self::watch::{Change, watch};
