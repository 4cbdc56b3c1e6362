//! Which interface the loss goes on. Pure.

use crate::netlink::{DefaultRoute, Link};

/// The interface, and the rule by which it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The interface.
    pub link: Link,
    /// The rule, in words.
    pub reason: String,
}

/// Why there is no interface to act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoInterface {
    /// The one that was named is not there.
    #[error("there is no interface \"{name}\" in this network namespace, which has {candidates}")]
    Missing {
        /// As it was named.
        name: String,
        /// What there is, in words.
        candidates: String,
    },
    /// Nothing tells which one is meant.
    #[error(
        "cannot tell which interface is meant: there is no default route, and this network namespace has {candidates}; name one with --interface"
    )]
    Unclear {
        /// What there is, in words.
        candidates: String,
    },
    /// The loopback was named.
    #[error("interface \"{name}\" is the loopback: name one that leads out of this network namespace")]
    Loopback {
        /// As it was named.
        name: String,
    },
}

/// Chooses: the one that was named; else the one that the default route with the lowest metric leaves by, IPv4's before IPv6's where
/// they are equal; else the only one that is up and not the loopback.
///
/// # Errors
/// Where that leads to none, with the candidates named.
pub fn choose(links: &[Link], routes: &[DefaultRoute], named: Option<&str>) -> Result<Choice, NoInterface> {
    let found = |link: &Link, reason: String| Ok(Choice { link: link.clone(), reason });
    if let Some(name) = named {
        let link = links.iter().find(|link| link.name == name);
        return match link {
            Some(link) if link.loopback => Err(NoInterface::Loopback { name: name.to_owned() }),
            Some(link) => found(link, "named with --interface".to_owned()),
            None => Err(NoInterface::Missing { name: name.to_owned(), candidates: list(links) }),
        };
    }
    let usable = |route: &&DefaultRoute| links.iter().any(|link| link.index == route.ifindex && !link.loopback);
    if let Some(route) = routes.iter().filter(usable).min_by_key(|route| (route.metric, route.v6))
        && let Some(link) = links.iter().find(|link| link.index == route.ifindex)
    {
        let family = if route.v6 { "IPv6" } else { "IPv4" };
        return found(link, format!("the {family} default route leaves by it, with metric {}", route.metric));
    }
    let mut candidates = links.iter().filter(|link| link.up && !link.loopback);
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => found(only, "the only interface that is up".to_owned()),
        _ => Err(NoInterface::Unclear { candidates: list(links) }),
    }
}

fn list(links: &[Link]) -> String {
    let names: Vec<_> = links
        .iter()
        .filter(|link| !link.loopback)
        .map(|link| if link.up { link.name.clone() } else { format!("{} (down)", link.name) })
        .collect();
    match names.as_slice() {
        [] => "none but the loopback".to_owned(),
        [one] => format!("only {one}"),
        several => several.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.to_owned(), up: true, loopback: name == "lo", ..Link::default() }
    }

    fn v4(ifindex: u32, metric: u32) -> DefaultRoute {
        DefaultRoute { ifindex, metric, v6: false, gateway: None }
    }

    fn v6(ifindex: u32, metric: u32) -> DefaultRoute {
        DefaultRoute { ifindex, metric, v6: true, gateway: None }
    }

    fn chosen(links: &[Link], routes: &[DefaultRoute]) -> String {
        choose(links, routes, None).map_or_else(|error| error.to_string(), |choice| choice.link.name)
    }

    #[test]
    fn the_lowest_metric_wins_and_ipv4_breaks_a_tie() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "net1")];
        assert_eq!(chosen(&links, &[v4(2, 100), v4(3, 50)]), "net1");
        assert_eq!(chosen(&links, &[v4(2, 100), v6(3, 50)]), "net1");
        assert_eq!(chosen(&links, &[v6(3, 100), v4(2, 100)]), "eth0");
        assert_eq!(chosen(&links, &[v6(3, 1024)]), "net1");
    }

    #[test]
    fn a_route_over_the_loopback_or_a_vanished_interface_says_nothing() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "net1")];
        assert_eq!(chosen(&links, &[v4(1, 0), v4(9, 0), v4(2, 7)]), "eth0");
    }

    #[test]
    fn without_a_default_route_the_only_interface_that_is_up_is_meant() {
        let down = Link { up: false, ..link(3, "tunl0") };
        assert_eq!(chosen(&[link(1, "lo"), link(2, "eth0"), down], &[]), "eth0");
    }

    #[test]
    fn otherwise_the_candidates_are_listed() {
        let down = Link { up: false, ..link(4, "tunl0") };
        let error = chosen(&[link(1, "lo"), link(2, "eth0"), link(3, "net1"), down], &[]);
        assert!(error.contains("has eth0, net1, tunl0 (down)") && error.contains("--interface"), "{error}");
        assert!(chosen(&[link(1, "lo")], &[]).contains("none but the loopback"));
    }

    #[test]
    fn a_named_interface_is_taken_or_missed() {
        let links = [link(1, "lo"), link(2, "eth0")];
        assert_eq!(choose(&links, &[], Some("eth0")).unwrap().link.index, 2);
        let error = choose(&links, &[], Some("eth1")).unwrap_err().to_string();
        assert!(error.contains("\"eth1\"") && error.contains("has only eth0"), "{error}");
        assert!(matches!(choose(&links, &[], Some("lo")), Err(NoInterface::Loopback { .. })));
    }
}
