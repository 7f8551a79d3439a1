//! Chats and agents: sessions whose every prompt is the previous prompt, its answer, and something new.
//!
//! Closed loop after the first turn: a user reads the answer before typing, an agent runs a tool before
//! going on. A follow-up at a recorded time would be sent before its own answer on a slow fleet, and a
//! slow fleet would look better than it is. A chat and an agent differ only in numbers: tools in the
//! prefix, more turns, shorter pauses.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::distribution::{at_least, count};
use super::draw::Zipf;
use super::{Arrivals, Distribution, WorkloadError};
use crate::number::MAX_TIME_NS;
use crate::random;
use crate::request::{Arrival, Source, Span, TraceRequest};

/// Multi-turn sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// Different system prompts (with tools, for agents); each session begins with one.
    pub prefixes: u32,
    /// How unequal their use is: the n-th is picked as often as `n^-skew`. 0 makes all alike.
    #[serde(default)]
    pub prefix_skew: f64,
    /// Length of a system prompt.
    pub prefix_tokens: Distribution,
    /// Turns of a session.
    pub turns: Distribution,
    /// New text of a turn: what the user typed, or what the tool returned.
    pub new_tokens: Distribution,
    /// Length of an answer.
    pub output_tokens: Distribution,
    /// Time from the end of an answer to the next turn, seconds.
    pub pause_s: Distribution,
    /// A session ends before its prompt grows beyond this.
    pub max_prompt_tokens: u32,
}

impl Sessions {
    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        count("prefixes", self.prefixes)?;
        at_least(0.0, "prefix_skew", self.prefix_skew)?;
        self.prefix_tokens.check("prefix_tokens")?;
        self.turns.check("turns")?;
        self.new_tokens.check("new_tokens")?;
        self.output_tokens.check("output_tokens")?;
        self.pause_s.check("pause_s")?;
        at_least(2.0, "max_prompt_tokens", self.max_prompt_tokens.into())
    }

    /// `count` requests, session by session in the order in which sessions start. The rate of `arrivals`
    /// is that of requests, so sessions start at that rate over their mean number of turns.
    pub(crate) fn requests(&self, count: u32, arrivals: &Arrivals, seed: u64) -> Vec<TraceRequest> {
        let mut draws = Draws::new(self, seed);
        let mut requests = Vec::with_capacity(count as usize);
        let mut first_turns = Vec::new();
        while requests.len() < count as usize {
            first_turns.push(requests.len());
            let session = first_turns.len() as u64 - 1;
            self.session(session, count, &mut draws, &mut requests);
        }
        let starts = u32::try_from(first_turns.len()).expect("at most one session per request");
        let sessions_per_s = arrivals.rate_rps() * f64::from(starts) / f64::from(count);
        let times_ns = arrivals.clone().with_rate_rps(sessions_per_s).times_ns(starts, seed);
        for (index, ns) in first_turns.into_iter().zip(times_ns) {
            requests[index].arrival = Arrival::At { ns };
        }
        requests
    }

    /// Appends the turns of one session, up to `count` requests in all.
    fn session(
        &self,
        session: u64,
        count: u32,
        draws: &mut Draws,
        requests: &mut Vec<TraceRequest>,
    ) {
        let prefix = draws.prefixes[draws.popularity.pick(&mut draws.choices)];
        // What is typed in a session is one stream of text of its own.
        let typed = Source::Hash(u64::from(self.prefixes) + session);
        let mut context = vec![prefix];
        let mut context_tokens = prefix.tokens;
        let mut typed_tokens = 0;
        for turn in 0..self.turns.tokens(&mut draws.turns, 1) {
            let new_tokens = self.new_tokens.tokens(&mut draws.new, 1);
            // The first turn always happens, shortened if need be.
            let room = self.max_prompt_tokens.saturating_sub(context_tokens);
            if requests.len() == count as usize || turn > 0 && new_tokens > room {
                return;
            }
            let new_tokens = new_tokens.min(room);
            context.push(Span { source: typed, start: typed_tokens, tokens: new_tokens });
            typed_tokens += new_tokens;
            let id = requests.len() as u64;
            let output_tokens = self.output_tokens.tokens(&mut draws.outputs, 1);
            requests.push(TraceRequest {
                id,
                // The first one's time is filled in when all sessions are known.
                arrival: match turn {
                    0 => Arrival::At { ns: 0 },
                    _ => Arrival::After { request: id - 1, delay_ns: draws.pause_ns(self) },
                },
                prompt: context.clone(),
                output_tokens,
                session: Some(session),
                priority: 0,
                cache_salt: None,
            });
            context.push(Span { source: Source::Output(id), start: 0, tokens: output_tokens });
            context_tokens =
                context_tokens.saturating_add(new_tokens).saturating_add(output_tokens);
        }
    }
}

/// The random streams, and the system prompts.
struct Draws {
    prefixes: Vec<Span>,
    popularity: Zipf,
    choices: ChaCha8Rng,
    turns: ChaCha8Rng,
    new: ChaCha8Rng,
    outputs: ChaCha8Rng,
    pauses: ChaCha8Rng,
}

impl Draws {
    fn new(config: &Sessions, seed: u64) -> Self {
        let mut lengths = random::stream(seed, "sessions/prefixes");
        // Room for at least one token of the user's.
        let longest = config.max_prompt_tokens - 1;
        let prefix = |id| Span {
            source: Source::Hash(id),
            start: 0,
            tokens: config.prefix_tokens.tokens(&mut lengths, 1).min(longest),
        };
        Self {
            prefixes: (0..config.prefixes.into()).map(prefix).collect(),
            popularity: Zipf::new(config.prefixes, config.prefix_skew),
            choices: random::stream(seed, "sessions/choices"),
            turns: random::stream(seed, "sessions/turns"),
            new: random::stream(seed, "sessions/new"),
            outputs: random::stream(seed, "sessions/outputs"),
            pauses: random::stream(seed, "sessions/pauses"),
        }
    }

    fn pause_ns(&mut self, config: &Sessions) -> u64 {
        // `as` saturates.
        ((config.pause_s.sample(&mut self.pauses) * 1e9) as u64).min(MAX_TIME_NS)
    }
}
