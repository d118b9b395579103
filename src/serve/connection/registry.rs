//! The open connections, the memory of their responses, and the choice of the one to evict when connections
//! or memory run out.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use super::progress::{Connection, EvictionClass};
use crate::serve::error::ApiError;
use crate::serve::limits::{RESPONSE_BUDGET_BYTES, SMALL_RESPONSE_BYTES};
use crate::serve::observe::metrics::Metrics;

/// All open connections.
pub(crate) struct Connections {
    registry: Mutex<Registry>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Registry {
    open: HashMap<u64, OpenConnection>,
    /// Number of connections of each network.
    shares: HashMap<IpAddr, usize>,
    /// Bytes that all responses reserve.
    reserved: usize,
}

struct OpenConnection {
    connection: Arc<Connection>,
    network: IpAddr,
    /// Bytes that the connection's responses reserve.
    reserved: usize,
}

/// The network that shares one limit: an address, or with IPv6 all addresses of a subscriber (/64).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

impl Registry {
    fn share(&self, network: IpAddr) -> usize {
        self.shares.get(&network).copied().unwrap_or(0)
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let OpenConnection { connection, network, reserved } = self.open.remove(&id)?;
        self.reserved -= reserved;
        if let Some(share) = self.shares.get_mut(&network) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&network);
            }
        }
        Some(connection)
    }

    /// The connection to evict if one can be spared: the one without progress for longest, of the network
    /// with the most connections. Connections that have been idle for a short time only are second choice.
    fn idlest(&self, now: Instant) -> Option<(u64, EvictionClass)> {
        let candidates = self.open.iter().filter_map(|(id, open)| {
            let since = open.connection.last_progress();
            let class = open.connection.eviction_class(now.saturating_duration_since(since))?;
            Some((class.is_new(), Reverse(self.share(open.network)), class, since, *id))
        });
        candidates.min().map(|(_, _, class, _, id)| (id, class))
    }

    /// The connection to evict if all are in use: a network with more than half of the connections loses the
    /// slowest of them to a client of another network.
    fn slowest_of_largest_share(&self, newcomer: IpAddr) -> Option<u64> {
        let (largest, share) = self.shares.iter().max_by_key(|(_, share)| **share)?;
        if *share * 2 <= self.open.len() || *largest == newcomer {
            return None;
        }
        let theirs = self.open.iter().filter(|(_, open)| open.network == *largest);
        theirs.min_by_key(|(_, open)| open.connection.last_progress()).map(|(id, _)| *id)
    }

    /// The connection to evict when responses need memory: the stalled one with the highest product of
    /// reserved bytes and idle time.
    fn costliest(&self, now: Instant, except: u64) -> Option<u64> {
        let stalled = self.open.iter().filter(|(id, open)| **id != except && open.reserved > 0);
        let costs = stalled.filter_map(|(id, open)| {
            let idle = now.saturating_duration_since(open.connection.last_progress());
            let class = open.connection.eviction_class(idle)?;
            (class == EvictionClass::StalledResponse).then_some((open.reserved as f64 * idle.as_secs_f64(), *id))
        });
        costs.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, id)| id)
    }
}

impl Connections {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Connections {
        Connections { registry: Mutex::default(), metrics: metrics.clone() }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    pub(super) fn open(self: &Arc<Self>, id: u64, address: SocketAddr) -> Arc<Connection> {
        let connection = Arc::new(Connection::new(id, address, Arc::downgrade(self)));
        let network = network(address.ip());
        let mut registry = self.registry();
        *registry.shares.entry(network).or_default() += 1;
        registry.open.insert(id, OpenConnection { connection: connection.clone(), network, reserved: 0 });
        connection
    }

    pub(super) fn close(&self, id: u64) {
        self.registry().remove(id);
    }

    /// Evicts one connection, if one can be spared for a client with this address.
    pub(super) fn evict(&self, newcomer: Option<IpAddr>) {
        let mut registry = self.registry();
        let victim = registry.idlest(Instant::now()).map(|(id, class)| (id, class.is_response()));
        let by_share = || Some((registry.slowest_of_largest_share(network(newcomer?))?, true));
        if let Some((id, abort)) = victim.or_else(by_share) {
            self.evict_one(&mut registry, id, abort);
        }
    }

    /// The connection is removed here, so that it is notified once.
    fn evict_one(&self, registry: &mut Registry, id: u64, abort: bool) {
        let Some(connection) = registry.remove(id) else { return };
        connection.abort.store(abort, Ordering::Release);
        connection.peer.evicted.store(true, Ordering::Release);
        connection.evict.notify_one();
        self.metrics.evicted.inc();
    }

    /// Adds to the reserved bytes of a connection.
    ///
    /// # Errors
    /// 429 if a large response exceeds the budget, and no stalled connection can be evicted.
    pub(super) fn reserve(&self, id: u64, bytes: usize) -> Result<(), ApiError> {
        let mut registry = self.registry();
        let now = Instant::now();
        // An evicted connection may finish the response in progress without a reservation.
        while let Some(own) = registry.open.get(&id).map(|open| open.reserved + bytes) {
            if registry.reserved + bytes > RESPONSE_BUDGET_BYTES {
                if let Some(victim) = registry.costliest(now, id) {
                    self.evict_one(&mut registry, victim, true);
                    continue;
                }
                if own > SMALL_RESPONSE_BYTES {
                    return Err(ApiError::busy("too many large responses at once: try again in a moment"));
                }
            }
            registry.reserved += bytes;
            if let Some(open) = registry.open.get_mut(&id) {
                open.reserved = own;
            }
            break;
        }
        self.metrics.response_bytes.set(i64::try_from(registry.reserved).unwrap_or(i64::MAX));
        Ok(())
    }

    pub(super) fn release(&self, id: u64, bytes: usize) {
        let mut registry = self.registry();
        if let Some(open) = registry.open.get_mut(&id) {
            open.reserved -= bytes;
            registry.reserved -= bytes;
        }
        self.metrics.response_bytes.set(i64::try_from(registry.reserved).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{Extensions, StatusCode};

    use super::super::progress::BusyGuard;
    use super::super::response::ResponseReservation;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn connections() -> Arc<Connections> {
        Arc::new(Connections::new(&Arc::default()))
    }

    fn open(all: &Arc<Connections>, id: u64, address: &str) -> Arc<Connection> {
        all.open(id, SocketAddr::new(address.parse().unwrap(), 1000))
    }

    /// Makes a connection's client stop reading its response.
    fn stall(connection: &Arc<Connection>, since: Duration) -> BusyGuard {
        let busy = BusyGuard::new(connection);
        connection.written(None);
        connection.backdate(since);
        busy
    }

    fn evict(all: &Connections, newcomer: &str) {
        all.evict(Some(newcomer.parse().unwrap()));
    }

    #[test]
    fn evicts_idle_connections_then_stalled_responses_and_never_a_computation() {
        let all = connections();
        let [idle, stalled, newly, computing, moving] = [1, 2, 3, 4, 5].map(|id| open(&all, id, "127.0.0.1"));
        idle.backdate(2 * SECOND);
        let _stalled = stall(&stalled, 60 * SECOND);
        let _newly = stall(&newly, SECOND / 2);
        let _computing = BusyGuard::new(&computing);
        computing.backdate(60 * SECOND);
        let _moving = stall(&moving, 60 * SECOND);
        moving.written(Some(100_000));
        moving.written(None);
        for (victim, aborted) in [(&idle, false), (&stalled, true), (&newly, true)] {
            assert!(!victim.is_evicted());
            evict(&all, "127.0.0.1");
            assert_eq!((victim.is_evicted(), victim.abort.load(Ordering::Acquire)), (true, aborted));
        }
        evict(&all, "127.0.0.1");
        assert!(!computing.is_evicted() && !moving.is_evicted());
    }

    #[test]
    fn a_client_that_reads_single_bytes_counts_as_stalled() {
        let all = connections();
        let slow = open(&all, 1, "127.0.0.1");
        let _busy = stall(&slow, 2 * SECOND);
        slow.written(Some(1));
        slow.written(None);
        evict(&all, "127.0.0.1");
        assert!(slow.is_evicted());
    }

    #[test]
    fn the_network_with_the_most_connections_loses_one_first() {
        let all = connections();
        let quiet = open(&all, 1, "192.0.2.1");
        quiet.backdate(600 * SECOND);
        // One subscriber has many addresses of IPv6.
        let crowd: Vec<_> = (2..5).map(|id| open(&all, id, &format!("2001:db8::{id}"))).collect();
        crowd.iter().for_each(|connection| connection.backdate(3 * SECOND));
        evict(&all, "127.0.0.1");
        evict(&all, "127.0.0.1");
        assert_eq!(crowd.iter().filter(|connection| connection.is_evicted()).count(), 2);
        assert!(!quiet.is_evicted());
    }

    #[test]
    fn a_network_with_most_of_the_connections_loses_one_in_use_to_another_network_only() {
        let all = connections();
        let theirs: Vec<_> = (0..3).map(|id| open(&all, id, "192.0.2.1")).collect();
        let other = open(&all, 3, "192.0.2.2");
        let _busy: Vec<_> = theirs.iter().chain([&other]).map(BusyGuard::new).collect();
        theirs[1].backdate(SECOND);
        evict(&all, "192.0.2.1");
        assert!(theirs.iter().all(|connection| !connection.is_evicted()));
        evict(&all, "192.0.2.3");
        let evicted: Vec<bool> = theirs.iter().map(|connection| connection.is_evicted()).collect();
        assert_eq!((evicted, other.is_evicted()), (vec![false, true, false], false));
        evict(&all, "192.0.2.3");
        assert_eq!(theirs.iter().filter(|connection| connection.is_evicted()).count(), 2);
        // Now half of the connections are theirs.
        evict(&all, "192.0.2.3");
        assert_eq!(theirs.iter().filter(|connection| connection.is_evicted()).count(), 2);
    }

    fn reservation(all: &Arc<Connections>, connection: &Arc<Connection>) -> ResponseReservation {
        let mut extensions = Extensions::new();
        extensions.insert(connection.clone());
        ResponseReservation::new(all, &extensions)
    }

    #[test]
    fn responses_share_a_budget_and_stalled_ones_are_evicted_for_others() {
        let all = connections();
        let [standing, moving, late, small] = [1, 2, 3, 4].map(|id| open(&all, id, "127.0.0.1"));
        let (_standing, _moving) = (stall(&standing, 5 * SECOND), BusyGuard::new(&moving));
        let half = RESPONSE_BUDGET_BYTES / 2;
        let mut held = [&standing, &moving, &late, &small].map(|connection| reservation(&all, connection));
        held[0].grow(half).unwrap();
        held[1].grow(half).unwrap();
        held[3].grow(SMALL_RESPONSE_BYTES).unwrap();
        assert!(standing.is_evicted() && !moving.is_evicted());
        held[2].grow(half - SMALL_RESPONSE_BYTES).unwrap();
        let error = held[2].grow(1).unwrap_err();
        assert_eq!(error.status, StatusCode::TOO_MANY_REQUESTS);
        let mut also_small = reservation(&all, &open(&all, 5, "127.0.0.1"));
        also_small.grow(SMALL_RESPONSE_BYTES).unwrap();
        assert!(!moving.is_evicted() && !late.is_evicted());
    }

    #[test]
    fn memory_is_returned_when_the_response_is_written_or_the_connection_closed() {
        let all = connections();
        let [written, closed] = [1, 2].map(|id| open(&all, id, "127.0.0.1"));
        for connection in [&written, &closed] {
            reservation(&all, connection).grow(1000).unwrap();
        }
        assert_eq!(all.registry().reserved, 2000, "the bytes may still be in the write buffer");
        written.flushed();
        assert_eq!(all.registry().reserved, 1000);
        all.close(2);
        closed.flushed();
        assert_eq!(all.registry().reserved, 0);
    }
}
