//! Hindsight: with the whole trace known, improve an assignment of requests to instances, move by move.
//!
//! Given placements, instances do not know of each other. A move is therefore judged by simulating again only the
//! two instances that it touches, exactly. Closed-loop requests tie instances together; then a whole run is simulated
//! for each move.

use lodestar_router::{BlockHash, InstanceId};
use lodestar_traces::{Arrival, TraceRequest};

use crate::cluster::{ClusterConfig, PlannedEvent, RunOutput, Stuck, simulate_placed};
use crate::content::PromptKeys;
use crate::random::Stream;
use crate::record::{Outcome, RequestRecord};

/// What a request costs that does not finish, ns: more than any TTFT worth having.
const UNFINISHED_NS: u64 = 3_600_000_000_000;
/// Tokens of a block by which prompts are compared.
const BLOCK_TOKENS: u32 = 16;
/// Of so many requests drawn, the one with the largest TTFT is moved.
const DRAWN: usize = 3;

/// The best assignment found.
#[derive(Clone, Debug)]
pub struct Hindsight {
    /// The run under it.
    pub output: RunOutput,
    /// The instance of each request, by position in the cluster.
    pub placements: Vec<InstanceId>,
    /// Simulations of one instance (or of the cluster, with closed-loop requests) that were made.
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
/// move that lowers it, until `simulations_max` simulations of one instance are spent. What does not
/// finish counts as an hour. Deterministic in `seed`, and never worse than the best start.
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
        let search = Search::start(config, requests, start)?;
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
    Ok(Hindsight { output, placements: search.placements, simulations: search.simulations })
}

/// One request to another instance.
type Move = (u32, InstanceId);

struct Search<'a> {
    config: &'a ClusterConfig,
    requests: &'a [TraceRequest],
    /// Block hashes of each prompt.
    keys: Vec<Vec<BlockHash>>,
    /// Whether instances can be simulated one by one.
    independent: bool,
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
        let output = simulate_placed(config, requests, start, &mut |_| {})?;
        Ok(Self {
            config,
            requests,
            keys: requests.iter().map(keys).collect(),
            independent: requests.iter().all(|r| matches!(r.arrival, Arrival::At { .. })),
            placements: start.to_vec(),
            costs: output.requests.iter().map(cost).collect(),
            simulations: config.instances.len() as u64,
        })
    }

    fn total(&self) -> u64 {
        self.costs.iter().sum()
    }

    /// Moves to try together: one request, those on its instance that share a prefix with it, or two such
    /// sets that change places.
    fn propose(&self, stream: &mut Stream) -> Vec<Move> {
        let subject = self.draw_costly(stream);
        let from = self.placements[subject];
        let others = self.config.instances.len() - 1;
        let to = stream.below(others) as u32;
        let to = InstanceId(if to >= from.0 { to + 1 } else { to });
        match stream.below(4) {
            0 => vec![(subject as u32, to)],
            1 | 2 => self.relatives(subject, stream).map(|request| (request, to)).collect(),
            _ => {
                let mut moves: Vec<Move> =
                    self.relatives(subject, stream).map(|request| (request, to)).collect();
                let there: Vec<usize> =
                    (0..self.requests.len()).filter(|&r| self.placements[r] == to).collect();
                if !there.is_empty() {
                    let partner = there[stream.below(there.len())];
                    moves.extend(self.relatives(partner, stream).map(|request| (request, from)));
                }
                moves
            }
        }
    }

    fn draw_costly(&self, stream: &mut Stream) -> usize {
        let draws: Vec<usize> = (0..DRAWN).map(|_| stream.below(self.requests.len())).collect();
        draws.into_iter().max_by_key(|&r| (self.costs[r], r)).expect("at least one draw")
    }

    /// Requests on the same instance that share a prefix of random length with this one, all of them or a
    /// run of neighbours around it, itself included.
    fn relatives(&self, subject: usize, stream: &mut Stream) -> impl Iterator<Item = u32> + '_ {
        let keys = &self.keys[subject];
        // Twice drawn, the lesser taken: short prefixes are shared by many.
        let depth = |stream: &mut Stream| stream.below(keys.len().max(1));
        let depth = depth(stream).min(depth(stream));
        let requests = self.requests.len();
        let window = match stream.below(3) {
            0 => 0..requests,
            1 => subject..requests,
            _ => {
                let width = 1 + stream.below(requests);
                subject.saturating_sub(width / 2)..(subject + width).min(requests)
            }
        };
        let instance = self.placements[subject];
        let shares = move |other: &usize| {
            *other == subject
                || (self.placements[*other] == instance
                    && !keys.is_empty()
                    && self.keys[*other].get(depth) == keys.get(depth))
        };
        window.filter(shares).map(|request| request as u32)
    }

    /// Makes the moves if they lower the total.
    fn try_moves(&mut self, moves: &[Move]) -> Result<(), Stuck> {
        let before: Vec<Move> = moves
            .iter()
            .map(|&(request, _)| (request, self.placements[request as usize]))
            .collect();
        let mut touched: Vec<InstanceId> =
            moves.iter().chain(&before).map(|&(_, instance)| instance).collect();
        touched.sort_unstable();
        touched.dedup();
        self.place(moves);
        let mut costs = self.costs.clone();
        if self.independent {
            for &instance in &touched {
                self.simulate_one(instance, &mut costs)?;
            }
        } else {
            let output =
                simulate_placed(self.config, self.requests, &self.placements, &mut |_| {})?;
            costs = output.requests.iter().map(cost).collect();
        }
        self.simulations += touched.len() as u64;
        if costs.iter().sum::<u64>() < self.total() {
            self.costs = costs;
        } else {
            self.place(&before);
        }
        Ok(())
    }

    fn place(&mut self, moves: &[Move]) {
        for &(request, instance) in moves {
            self.placements[request as usize] = instance;
        }
    }

    /// Costs of the requests on one instance, as it would serve them.
    fn simulate_one(&self, instance: InstanceId, costs: &mut [u64]) -> Result<(), Stuck> {
        let at = instance.0 as usize;
        let here: Vec<usize> =
            (0..self.requests.len()).filter(|&r| self.placements[r] == instance).collect();
        let requests: Vec<TraceRequest> = here.iter().map(|&r| self.requests[r].clone()).collect();
        let plan = self.config.plan.iter().filter(|event| event.instance == at);
        let alone = ClusterConfig {
            instances: vec![self.config.instances[at].clone()],
            plan: plan.map(|event| PlannedEvent { instance: 0, ..*event }).collect(),
            ..self.config.clone()
        };
        let placements = vec![InstanceId(0); requests.len()];
        let output = simulate_placed(&alone, &requests, &placements, &mut |_| {})?;
        for (request, record) in here.into_iter().zip(&output.requests) {
            costs[request] = cost(record);
        }
        Ok(())
    }
}

fn cost(record: &RequestRecord) -> u64 {
    match record.ttft().filter(|_| record.outcome == Outcome::Finished) {
        Some(ttft) => ttft.as_nanos().min(UNFINISHED_NS),
        None => UNFINISHED_NS,
    }
}
