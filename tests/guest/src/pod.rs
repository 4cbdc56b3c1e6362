//! A pod as the network sees it: a namespace whose eth0 is one end of a veth, and a peer at the other end.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{Counted, Namespace, PATIENCE, traffic};

/// Addresses set aside for documentation (RFC 5737, RFC 3849), first the pod's, then the peer's.
const IPV4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const IPV6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];
const MAC: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

/// Which way packets go, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the pod to the peer.
    Out,
    /// From the peer to the pod.
    In,
}

/// What eth0 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// A macvlan of the node's interface.
    Macvlan,
    /// An ipvlan (L2) of the node's interface.
    Ipvlan,
    /// The pod's end of a netkit pair (L2).
    Netkit,
    /// One end of a veth pair, with four queues.
    MultiQueue,
    /// One end of a veth pair, with an address of its own (/32) and a link-local gateway.
    PointToPoint,
}

/// The two namespaces.
#[derive(Debug)]
pub struct Pod {
    /// Where the agent runs: it has eth0 and the default routes.
    pub pod: Namespace,
    /// The other end, whose interface is called peer0.
    pub peer: Namespace,
    /// What is between them, where something is.
    _node: Option<Namespace>,
}

impl Pod {
    /// A pod with IPv4 and IPv6 addresses and default routes over eth0.
    ///
    /// Neighbours are fixed on both sides: otherwise loss would take ARP and NDP too, and the count would be about those.
    ///
    /// # Errors
    ///
    /// If the kernel refuses any of it.
    pub fn new() -> Result<Self> {
        let this = Self::without_routes()?;
        this.pod.ip_batch(&format!("route add default via {}\nroute add default via {}\n", IPV4[1], IPV6[1]))?;
        Ok(this)
    }

    /// The same in a namespace that is there already, and has nothing in it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses any of it.
    pub(super) fn in_namespace(pod: Namespace) -> Result<Self> {
        let this = Self::make_in(pod, "")?;
        this.pod.ip_batch(&format!("route add default via {}\nroute add default via {}\n", IPV4[1], IPV6[1]))?;
        Ok(this)
    }

    /// The same with this index for eth0.
    ///
    /// # Errors
    ///
    /// If the kernel refuses any of it.
    pub fn with_index(index: u32) -> Result<Self> {
        let this = Self::make(&format!("index {index}"))?;
        this.pod.ip_batch(&format!("route add default via {}\nroute add default via {}\n", IPV4[1], IPV6[1]))?;
        Ok(this)
    }

    /// A pod on an interface of that kind.
    ///
    /// # Errors
    ///
    /// If the kernel refuses any of it.
    pub fn on(interface: Interface) -> Result<Self> {
        let this = match interface {
            Interface::Macvlan | Interface::Ipvlan => Self::on_a_node(interface)?,
            Interface::Netkit => Self::on_netkit()?,
            Interface::MultiQueue => Self::make("numtxqueues 4 numrxqueues 4")?,
            Interface::PointToPoint => {
                let this = Self::make("")?;
                this.pod.ip_batch(&format!(
                    "addr del {own}/24 dev eth0\naddr add {own}/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
                     neigh add 169.254.1.1 lladdr {} dev eth0 nud permanent\nroute add default via 169.254.1.1 dev eth0\n",
                    MAC[1],
                    own = IPV4[0],
                ))?;
                return Ok(this);
            }
        };
        this.pod.ip_batch(&format!("route add default via {}\nroute add default via {}\n", IPV4[1], IPV6[1]))?;
        Ok(this)
    }

    /// The pod's interface is a part of the node's, whose other end is the peer's.
    fn on_a_node(interface: Interface) -> Result<Self> {
        let (pod, peer, node) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        // An ipvlan has its parent's hardware address, a macvlan one of its own.
        let (kind, uplink, own) = match interface {
            Interface::Macvlan => ("macvlan mode bridge", "02:00:00:00:00:03", MAC[0]),
            _ => ("ipvlan mode l2", MAC[0], ""),
        };
        let own = if own.is_empty() { String::new() } else { format!("address {own}") };
        node.ip_batch(&format!(
            "link add up0 address {uplink} type veth peer name peer0 address {} netns {}\nlink set up0 up\n\
             link add link up0 name eth0 {own} netns {} type {kind}\n",
            MAC[1],
            peer.path(),
            pod.path(),
        ))?;
        Self::finish(pod, peer, Some(node))
    }

    fn on_netkit() -> Result<Self> {
        let (pod, peer) = (Namespace::new()?, Namespace::new()?);
        peer.ip_batch(&format!(
            "link add peer0 address {} type netkit mode l2 forward peer forward name eth0 address {} netns {}\n",
            MAC[1],
            MAC[0],
            pod.path(),
        ))?;
        Self::finish(pod, peer, None)
    }

    fn finish(pod: Namespace, peer: Namespace, node: Option<Namespace>) -> Result<Self> {
        pod.ip_batch(&Self::addresses("eth0", 0))?;
        peer.ip_batch(&Self::addresses("peer0", 1))?;
        let this = Self { pod, peer, _node: node };
        this.wait_for_carrier()?;
        Ok(this)
    }

    /// The same without default routes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses any of it.
    pub fn without_routes() -> Result<Self> {
        Self::make("")
    }

    fn make(eth0: &str) -> Result<Self> {
        Self::make_in(Namespace::new()?, eth0)
    }

    fn make_in(pod: Namespace, eth0: &str) -> Result<Self> {
        let peer = Namespace::new()?;
        let pair = format!("link add eth0 {eth0} address {} type veth peer name peer0 address {} netns {}\n", MAC[0], MAC[1], peer.path());
        pod.ip_batch(&pair)?;
        Self::finish(pod, peer, None)
    }

    /// Configures one end, `own` being its place in the lists of addresses.
    fn addresses(device: &str, own: usize) -> String {
        let other = 1 - own;
        format!(
            "link set lo up\nlink set {device} up\n\
             addr add {}/24 dev {device}\naddr add {}/64 dev {device} nodad\n\
             neigh add {} lladdr {mac} dev {device} nud permanent\nneigh add {} lladdr {mac} dev {device} nud permanent\n",
            IPV4[own],
            IPV6[own],
            IPV4[other],
            IPV6[other],
            mac = MAC[other]
        )
    }

    /// The kernel announces the carrier a little later, and a snapshot taken before that would differ from one taken after.
    fn wait_for_carrier(&self) -> Result<()> {
        let started = Instant::now();
        while self.pod.json("ip", "-j link show dev eth0")?[0]["operstate"] != "UP" {
            ensure!(started.elapsed() < PATIENCE, "eth0 never came up");
        }
        Ok(())
    }

    /// Sends numbered packets over IPv4 and counts those that arrive.
    ///
    /// # Errors
    ///
    /// If counting itself goes wrong, so that the numbers would say nothing about loss.
    pub fn send(&self, way: Way, packets: u32) -> Result<Counted> {
        Counted::of(&self.trace(way, packets)?)
    }

    /// Sends numbered packets over IPv4 and sees which of them arrive, in the order in which they were sent.
    ///
    /// # Errors
    ///
    /// As [`Pod::send`].
    pub fn trace(&self, way: Way, packets: u32) -> Result<Vec<bool>> {
        self.send_to(way, IPV4, packets)
    }

    /// Switches IPv6 off at both ends, with which go the packets that nobody sent: router solicitations, multicast reports.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn silence(&self) -> Result<()> {
        for namespace in [&self.pod, &self.peer] {
            namespace.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").context("cannot switch IPv6 off"))?;
        }
        Ok(())
    }

    /// The same over IPv6.
    ///
    /// # Errors
    ///
    /// As [`Pod::send`].
    pub fn send_ipv6(&self, way: Way, packets: u32) -> Result<Counted> {
        Counted::of(&self.send_to(way, IPV6, packets)?)
    }

    fn send_to(&self, way: Way, addresses: [&str; 2], packets: u32) -> Result<Vec<bool>> {
        let [pod, peer]: [IpAddr; 2] = [addresses[0].parse()?, addresses[1].parse()?];
        self.exchange(way, pod, SocketAddr::new(peer, 0), packets)
    }

    /// Gives the peer one more address.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn add_remote(&self, address: IpAddr) -> Result<()> {
        let length = if address.is_ipv4() { 24 } else { 64 };
        let nodad = if address.is_ipv4() { "" } else { "nodad" };
        self.peer.ip(&format!("addr add {address}/{length} dev peer0 {nodad}"))?;
        self.pod.ip(&format!("neigh add {address} lladdr {} dev eth0 nud permanent", MAC[1]))
    }

    /// Sends numbered packets to or from an address and port of the peer, and counts those that arrive.
    ///
    /// # Errors
    ///
    /// As [`Pod::send`].
    pub fn send_with(&self, way: Way, remote: SocketAddr, packets: u32) -> Result<Counted> {
        let own = if remote.is_ipv4() { IPV4[0] } else { IPV6[0] };
        Counted::of(&self.exchange(way, own.parse()?, remote, packets)?)
    }

    fn exchange(&self, way: Way, pod: IpAddr, peer: SocketAddr, packets: u32) -> Result<Vec<bool>> {
        let pod = SocketAddr::new(pod, 0);
        match way {
            Way::Out => traffic::send((&self.pod, pod), (&self.peer, peer), packets),
            Way::In => traffic::send((&self.peer, peer), (&self.pod, pod), packets),
        }
    }
}
