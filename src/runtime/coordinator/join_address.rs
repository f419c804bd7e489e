//! Where rank 0 listens for ranks that join, and the addresses that it publishes.
//!
//! An explicit address is used as it is. Without one, or if the given name is that of this machine
//! and resolves to its loopback interface (many systems map the own name to 127.0.1.1), rank 0
//! listens on all interfaces and publishes the addresses that other nodes may reach, the likeliest
//! first: a joining rank tries one after the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use sysinfo::Networks;

use crate::runtime::RunError;

/// Where rank 0 should listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// `HOST`, `HOST:PORT`, or an IP address with or without a port.
    On(String),
    /// On all interfaces that other nodes may reach.
    Reachable,
}

/// The address that rank 0 binds, and the addresses that it publishes with the bound port, the
/// likeliest first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JoinAddress {
    pub(super) bind: SocketAddr,
    told: Vec<IpAddr>,
}

impl JoinAddress {
    /// Chooses the addresses from the machine's name and interfaces.
    ///
    /// # Errors
    /// If the name has no address, or no other node can reach this machine.
    pub(super) fn choose(listen: &Listen) -> Result<JoinAddress, RunError> {
        let (asked, port) = match listen {
            Listen::On(text) => resolve(text)?,
            Listen::Reachable => (None, 0),
        };
        if let Some(ip) = asked.filter(|ip| !ip.is_unspecified()) {
            return Ok(JoinAddress { bind: (ip, port).into(), told: vec![ip] });
        }
        let told = reachable(&interfaces(), own_address());
        let told: Vec<IpAddr> = match asked {
            Some(any) => told.into_iter().filter(|ip| ip.is_ipv4() == any.is_ipv4()).collect(),
            // Of one kind, so that one socket serves all.
            None => told.iter().filter(|ip| ip.is_ipv4() == told[0].is_ipv4()).copied().collect(),
        };
        let Some(first) = told.first() else {
            return Err(RunError::Refused(
                "other nodes cannot reach this machine, which has no address but that of its loopback interface: bring a network \
                 up, or name an address with --join-on or `listen` in [capacity] (127.0.0.1 for ranks on this machine alone)"
                    .into(),
            ));
        };
        let any: IpAddr = if first.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Ok(JoinAddress { bind: (any, port).into(), told })
    }

    /// The addresses to publish, with the bound port.
    pub(super) fn published(&self, port: u16) -> Vec<String> {
        self.told.iter().map(|&ip| SocketAddr::from((ip, port)).to_string()).collect()
    }
}

/// The address and the port of a text; no address if it is a name of this machine that resolves to
/// its loopback interface.
fn resolve(text: &str) -> Result<(Option<IpAddr>, u16), RunError> {
    let refused = |why: String| RunError::Refused(format!("cannot listen on `{text}`: {why}"));
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((Some(address.ip()), address.port()));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok((Some(ip), 0));
    }
    let named = if text.contains(':') { text.to_owned() } else { format!("{text}:0") };
    let found: Vec<SocketAddr> = named.to_socket_addrs().map_err(|error| refused(error.to_string()))?.collect();
    let best = found.iter().find(|address| !address.ip().is_loopback()).or(found.first());
    let best = best.ok_or_else(|| refused("the name has no address".into()))?;
    let is_misleading = best.ip().is_loopback() && !named.starts_with("localhost");
    Ok(((!is_misleading).then_some(best.ip()), best.port()))
}

/// The addresses of this machine, by interface.
fn interfaces() -> BTreeMap<String, Vec<IpAddr>> {
    let Ok(networks) = Networks::new_with_refreshed_list() else { return BTreeMap::new() };
    let addresses = |data: &sysinfo::NetworkData| data.ip_networks().iter().map(|network| network.addr).collect();
    networks.iter().map(|(name, data)| (name.to_string_lossy().into_owned(), addresses(data))).collect()
}

/// The address of this machine's name.
fn own_address() -> Option<IpAddr> {
    let name = sysinfo::System::host_name().ok()?;
    let mut found = (name.as_str(), 0).to_socket_addrs().ok()?;
    found.find(|address| !address.ip().is_loopback()).map(|address| address.ip())
}

/// Prefixes of interfaces that lead to containers and virtual machines of this node.
const INNER: [&str; 9] = ["docker", "br-", "virbr", "veth", "cni", "podman", "lxc", "lxd", "flannel"];

/// The addresses by which other nodes may reach this machine: that of its name first, those of
/// inner interfaces last.
fn reachable(interfaces: &BTreeMap<String, Vec<IpAddr>>, own: Option<IpAddr>) -> Vec<IpAddr> {
    let is_inner = |name: &str| INNER.iter().any(|prefix| name.starts_with(prefix));
    let all = interfaces.iter().flat_map(|(name, addresses)| addresses.iter().map(move |ip| (name, *ip)));
    let mut found: Vec<(bool, bool, bool, IpAddr)> = all
        .filter(|(_, ip)| is_routed(*ip))
        .map(|(name, ip)| (Some(ip) != own, is_inner(name), ip.is_ipv6(), ip))
        .collect();
    found.sort_by_key(|&(is_other, is_inner, is_v6, _)| (is_other, is_inner, is_v6));
    found.into_iter().map(|(.., ip)| ip).collect()
}

fn is_routed(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(interfaces: &[(&str, &[&str])], own: Option<&str>) -> Vec<String> {
        let of = |ips: &&[&str]| ips.iter().map(|text| ip(text)).collect();
        let interfaces = interfaces.iter().map(|(name, ips)| ((*name).to_owned(), of(ips))).collect();
        reachable(&interfaces, own.map(ip)).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn other_nodes_are_told_addresses_that_they_can_reach() {
        let all: [(&str, &[&str]); 4] = [
            ("docker0", &["172.17.0.1"]),
            ("eth0", &["fe80::1", "fd00::2", "192.0.2.2"]),
            ("ib0", &["10.1.0.2", "169.254.1.1"]),
            ("lo", &["127.0.0.1", "::1"]),
        ];
        assert_eq!(found(&all, None), ["192.0.2.2", "10.1.0.2", "fd00::2", "172.17.0.1"]);
        assert_eq!(found(&all, Some("10.1.0.2"))[0], "10.1.0.2", "its name says which is meant");
        assert_eq!(found(&all, Some("127.0.1.1"))[0], "192.0.2.2");
        assert!(found(&all[3..], None).is_empty());
    }

    #[test]
    fn what_is_named_is_taken_as_it_is() {
        let told = |text: &str| JoinAddress::choose(&Listen::On(text.into())).map(|address| address.published(7));
        assert_eq!(told("127.0.0.1").unwrap(), ["127.0.0.1:7"]);
        assert_eq!(told("localhost").unwrap().len(), 1);
        assert_eq!(told("[::1]:5").unwrap(), ["[::1]:7"]);
        assert!(told("no-such-host.invalid").is_err());
        // With a network, all of this machine's means those that others reach.
        if let Ok(all) = told("0.0.0.0") {
            assert!(!all.is_empty() && all.iter().all(|text| !text.starts_with("127.") && !text.starts_with("0.")));
        }
    }
}
