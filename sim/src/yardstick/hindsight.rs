//! Hindsight: with the whole trace known, improve an assignment of requests to instances, move by move.
//!
//! Given placements, instances do not know of each other. A move is therefore judged by simulating again only the
//! two instances that it touches, from the change on, and given up when it has not helped some requests later. What
//! is kept has been simulated to the end, exactly. Closed-loop requests tie instances together, and so does one that is
//! back before its crash is noticed; then a whole run is simulated for each move.

use lodestar_router::{BlockHash, InstanceId};
use lodestar_traces::TraceRequest;

use super::lanes::{Lane, Lanes, Moment, Stop, UNFINISHED_NS};
use crate::cluster::{ClusterConfig, RunOutput, Stuck, simulate_placed};
use crate::content::PromptKeys;
use crate::random::Stream;
use crate::record::{Outcome, RequestRecord};

/// Tokens of a block by which prompts are compared.
const BLOCK_TOKENS: u32 = 16;
/// Of so many requests drawn, the one with the largest TTFT is moved.
const DRAWN: usize = 3;
/// A simulation of more requests counts as several: a budget is then a time, too.
const REQUESTS_OF_A_SIMULATION: usize = 1_000;
/// How far away in the trace a request is that changes places with another, at most.
const NEIGHBOURS: usize = 20;

/// The best assignment found.
#[derive(Clone, Debug)]
pub struct Hindsight {
    /// The run under it.
    pub output: RunOutput,
    /// The instance of each request, by position in the cluster.
    pub placements: Vec<InstanceId>,
    /// Simulations of one instance that were begun, each thousand requests of one counted by themselves; a whole run
    /// counts as one of every instance for each thousand requests.
    pub simulations: u64,
}

/// Where a run sent its requests, by position in the cluster, as a start for [`hindsight`]. What it sent
/// nowhere counts as sent to the first instance.
pub fn placements_of(config: &ClusterConfig, output: &RunOutput) -> Vec<InstanceId> {
    let returns =
        config.plan.iter().filter(|event| event.kind == crate::cluster::PlannedKind::Return);
    let returned: Vec<usize> = returns.map(|event| event.instance).collect();
    let instance_of = |id: InstanceId| {
        let member = id.0 as usize;
        if member < config.instances.len() {
            member
        } else {
            returned[member - config.instances.len()]
        }
    };
    let placement =
        |record: &RequestRecord| InstanceId(record.instance.map_or(0, instance_of) as u32);
    output.requests.iter().map(placement).collect()
}

/// Local search for the assignment with the lowest mean TTFT: from the best of `starts` it makes every
/// move it finds that lowers it, until `simulations_max` simulations ([`Hindsight::simulations`]) were begun. What does
/// not finish counts as an hour. Deterministic in `seed`, and never worse than the best start.
///
/// # Errors
/// As [`simulate_placed`](crate::simulate_placed).
///
/// # Panics
/// When there is no start, or one is not an instance of the cluster for each request.
pub fn hindsight(
    config: &ClusterConfig,
    requests: &[TraceRequest],
    starts: &[Vec<InstanceId>],
    simulations_max: u64,
    seed: u64,
) -> Result<Hindsight, Stuck> {
    assert!(!starts.is_empty(), "a search starts somewhere");
    let mut best: Option<Search<'_>> = None;
    let mut simulations = 0;
    for start in starts {
        let mut search = Search::start(config, requests, start)?;
        search.mend()?;
        simulations += search.simulations;
        if best.as_ref().is_none_or(|best| search.total() < best.total()) {
            best = Some(search);
        }
    }
    let mut search = best.expect("there is a start");
    let started_at = search.total();
    search.simulations = simulations;
    let mut stream = Stream::fork(seed, "hindsight");
    while search.simulations < simulations_max && config.instances.len() > 1 && !requests.is_empty()
    {
        let moves = search.propose(&mut stream);
        search.try_moves(&moves)?;
    }
    assert!(search.total() <= started_at, "only improvements are kept");
    let output = simulate_placed(config, requests, &search.placements, &mut |_| {})?;
    let total: u64 = output.requests.iter().map(cost).sum();
    assert_eq!(total, search.total(), "instances by themselves are as in the cluster");
    Ok(Hindsight { output, placements: search.placements, simulations: search.simulations })
}

/// One request to another instance.
type Move = (usize, InstanceId);

struct Search<'a> {
    config: &'a ClusterConfig,
    requests: &'a [TraceRequest],
    /// Block hashes of each prompt.
    keys: Vec<Vec<BlockHash>>,
    /// If instances can be simulated one by one, how, and each of them.
    lanes: Option<(Lanes<'a>, Vec<Lane>)>,
    placements: Vec<InstanceId>,
    /// Cost of each request, ns: its TTFT.
    costs: Vec<u64>,
    simulations: u64,
}

impl<'a> Search<'a> {
    fn start(
        config: &'a ClusterConfig,
        requests: &'a [TraceRequest],
        start: &[InstanceId],
    ) -> Result<Self, Stuck> {
        let keys = |request: &TraceRequest| {
            PromptKeys::new(&request.prompt, request.cache_salt, BLOCK_TOKENS).keys
        };
        let mut costs = vec![UNFINISHED_NS; requests.len()];
        let lanes = match Lanes::new(config, requests) {
            None => {
                let output = simulate_placed(config, requests, start, &mut |_| {})?;
                costs = output.requests.iter().map(cost).collect();
                None
            }
            Some(lanes) => {
                let instances = (0..config.instances.len() as u32).map(InstanceId);
                let each = instances
                    .map(|instance| lanes.start(start, instance, &mut costs))
                    .collect::<Result<Vec<Lane>, Stuck>>()?;
                Some((lanes, each))
            }
        };
        Ok(Self {
            config,
            requests,
            keys: requests.iter().map(keys).collect(),
            lanes,
            placements: start.to_vec(),
            costs,
            simulations: config.instances.len() as u64,
        })
    }

    fn total(&self) -> u64 {
        self.costs.iter().sum()
    }

    /// Sends what is lost to other instances. Otherwise the start that loses least would be the best one, however slow.
    fn mend(&mut self) -> Result<(), Stuck> {
        for request in 0..self.requests.len() {
            for instance in (0..self.config.instances.len() as u32).map(InstanceId) {
                if self.costs[request] == UNFINISHED_NS && self.placements[request] != instance {
                    self.try_moves(&[(request, instance)])?;
                }
            }
        }
        Ok(())
    }

    /// Moves to try together: a request, or those on its instance that share a prefix with it, go to another
    /// instance; a request that came there at about that time may come back in exchange.
    fn propose(&self, stream: &mut Stream) -> Vec<Move> {
        let subject = self.draw_costly(stream);
        let from = self.placements[subject];
        let kind = stream.below(3);
        let home = if kind == 0 { self.draw_home(subject, stream) } else { None };
        let to = home.unwrap_or_else(|| self.draw_other(from, stream));
        let requests =
            if stream.below(2) == 0 { vec![subject] } else { self.relatives(subject, stream) };
        let mut moves: Vec<Move> = requests.iter().map(|&request| (request, to)).collect();
        if kind == 2 {
            let end = (subject + NEIGHBOURS).min(self.requests.len());
            let neighbours = subject.saturating_sub(NEIGHBOURS)..end;
            let there: Vec<usize> = neighbours.filter(|&r| self.placements[r] == to).collect();
            if !there.is_empty() {
                moves.push((there[stream.below(there.len())], from));
            }
        }
        moves
    }

    fn draw_costly(&self, stream: &mut Stream) -> usize {
        let draws = [(); DRAWN].map(|()| stream.below(self.requests.len()));
        draws.into_iter().max_by_key(|&r| (self.costs[r], r)).expect("at least one draw")
    }

    /// Any other instance.
    fn draw_other(&self, from: InstanceId, stream: &mut Stream) -> InstanceId {
        let to = stream.below(self.config.instances.len() - 1) as u32;
        InstanceId(if to >= from.0 { to + 1 } else { to })
    }

    /// Another instance that serves a request which shares a prefix with this one, if there is any.
    fn draw_home(&self, subject: usize, stream: &mut Stream) -> Option<InstanceId> {
        let key = self.draw_key(subject, stream)?;
        let elsewhere =
            |&r: &usize| self.placements[r] != self.placements[subject] && self.shares(r, key);
        let homes: Vec<usize> = (0..self.requests.len()).filter(elsewhere).collect();
        (!homes.is_empty()).then(|| self.placements[homes[stream.below(homes.len())]])
    }

    /// This request and those on its instance that share a prefix with it: all of them, those that come after
    /// it, or those of some time.
    fn relatives(&self, subject: usize, stream: &mut Stream) -> Vec<usize> {
        let requests = self.requests.len();
        let window = match stream.below(3) {
            0 => 0..requests,
            1 => subject..requests,
            _ => {
                let width = 1 + stream.below(requests);
                subject.saturating_sub(width / 2)..(subject + width).min(requests)
            }
        };
        let Some(key) = self.draw_key(subject, stream) else { return vec![subject] };
        let instance = self.placements[subject];
        window.filter(|&r| self.placements[r] == instance && self.shares(r, key)).collect()
    }

    /// A block of a prompt: its position and hash. Twice drawn, the earlier one taken: short prefixes are
    /// shared by many.
    fn draw_key(&self, subject: usize, stream: &mut Stream) -> Option<(usize, BlockHash)> {
        let keys = &self.keys[subject];
        if keys.is_empty() {
            return None;
        }
        let block = stream.below(keys.len()).min(stream.below(keys.len()));
        Some((block, keys[block]))
    }

    /// Whether a prompt begins as another one does up to this block.
    fn shares(&self, request: usize, (block, hash): (usize, BlockHash)) -> bool {
        self.keys[request].get(block) == Some(&hash)
    }

    /// Makes the moves if they lower the total.
    fn try_moves(&mut self, moves: &[Move]) -> Result<(), Stuck> {
        let before: Vec<Move> =
            moves.iter().map(|&(request, _)| (request, self.placements[request])).collect();
        let mut touched: Vec<InstanceId> =
            moves.iter().chain(&before).map(|&(_, instance)| instance).collect();
        touched.sort_unstable();
        touched.dedup();
        self.place(moves);
        if let Some((lanes, each)) = &mut self.lanes {
            let mut costs = self.costs.clone();
            for &(request, _) in moves {
                costs[request] = UNFINISHED_NS; // unless its new instance takes it
            }
            let changes: Vec<Change> = touched
                .iter()
                .map(|&instance| {
                    let messages = lanes.messages(&self.placements, instance);
                    let lane = &each[instance.0 as usize];
                    Change { instance, moment: lanes.resume(lane, &messages), messages }
                })
                .collect();
            let improved =
                improve(lanes, changes, moves, &self.costs, &mut costs, &mut self.simulations);
            if let Some(changes) = improved {
                for Change { instance, messages, .. } in changes {
                    lanes.adopt(&mut each[instance.0 as usize], messages, &mut costs);
                }
                self.costs = costs;
                return Ok(());
            }
        } else {
            let times = self.requests.len().div_ceil(REQUESTS_OF_A_SIMULATION);
            self.simulations += (self.config.instances.len() * times) as u64;
            let output =
                simulate_placed(self.config, self.requests, &self.placements, &mut |_| {})?;
            let costs: Vec<u64> = output.requests.iter().map(cost).collect();
            if costs.iter().sum::<u64>() < self.total() {
                self.costs = costs;
                return Ok(());
            }
        }
        self.place(&before);
        Ok(())
    }

    fn place(&mut self, moves: &[Move]) {
        for &(request, instance) in moves {
            self.placements[request] = instance;
        }
    }
}

/// New messages of one instance, and where they begin to differ.
struct Change {
    instance: InstanceId,
    messages: Vec<usize>,
    moment: Moment,
}

/// The changes, if they lower the sum of all costs; `costs` are then the new ones. Counts the simulations.
fn improve(
    lanes: &Lanes<'_>,
    mut changes: Vec<Change>,
    moves: &[Move],
    before: &[u64],
    costs: &mut [u64],
    simulations: &mut u64,
) -> Option<Vec<Change>> {
    let changed = moves.iter().map(|&(request, _)| lanes.due(request)).max()?;
    let horizons = changes.iter().map(|change| lanes.horizon(&change.messages, changed));
    let horizon = horizons.max()?;
    let begins: Vec<usize> = changes.iter().map(|change| change.moment.messages()).collect();
    let mut is_better = true;
    for stop in [Stop::Served(horizon), Stop::Never] {
        for Change { messages, moment, .. } in &mut changes {
            lanes.advance(messages, moment, stop, costs);
        }
        let counts =
            |request: &usize| matches!(stop, Stop::Never) || lanes.due(*request) <= horizon;
        let sum = |costs: &[u64]| {
            (0..costs.len()).filter(counts).map(|request| costs[request]).sum::<u64>()
        };
        is_better = is_better && sum(costs) < sum(before);
        if !is_better {
            break;
        }
    }
    for (begin, change) in begins.iter().zip(&changes) {
        let requests = change.moment.messages() - begin;
        *simulations += requests.div_ceil(REQUESTS_OF_A_SIMULATION).max(1) as u64;
    }
    is_better.then_some(changes)
}

fn cost(record: &RequestRecord) -> u64 {
    match record.ttft().filter(|_| record.outcome == Outcome::Finished) {
        Some(ttft) => ttft.as_nanos().min(UNFINISHED_NS),
        None => UNFINISHED_NS,
    }
}
