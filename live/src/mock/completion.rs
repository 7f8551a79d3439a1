//! The answers to one request while they are made. Dropped before they are complete, they are aborted.

use std::sync::mpsc::Sender;
use std::task::{Context, Poll};

use lodestar_router::Time;
use tokio::sync::mpsc;

use super::driver::Command;
use super::request::Asked;
use super::wire::Used;
use super::{MockRequest, MockToken, text};

#[derive(Debug)]
pub(super) struct Answers {
    commands: Sender<Command>,
    tokens: mpsc::UnboundedReceiver<MockToken>,
    /// Handle of the first; the others follow.
    first: u32,
    choices: Vec<Choice>,
    output_tokens: u32,
    used: Used,
}

#[derive(Clone, Copy, Debug)]
struct Choice {
    answer: u32,
    made: u32,
    /// The first of its prompt, which is counted once.
    counts: bool,
}

/// One token of one choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) choice: usize,
    pub(super) text: String,
    /// The token's id, as [`text::answer_id`].
    pub(super) id: u32,
    pub(super) first: bool,
    pub(super) last: bool,
}

impl Answers {
    /// Hands the request to the engine. `first` and the numbers after it name requests and answers.
    pub(super) fn begin(
        commands: Sender<Command>,
        asked: &Asked,
        arrived: Time,
        first: u32,
        salt: u32,
    ) -> Self {
        let (sender, tokens) = mpsc::unbounded_channel();
        let mut choices = Vec::new();
        let mut used = Used::default();
        for prompt in &asked.prompts {
            used.prompt += prompt.iter().map(|span| span.tokens).sum::<u32>();
            for copy in 0..asked.n {
                let handle = first.wrapping_add(choices.len() as u32);
                let answer = handle.wrapping_add(salt);
                choices.push(Choice { answer, made: 0, counts: copy == 0 });
                let request = MockRequest {
                    handle,
                    arrived,
                    prompt: prompt.clone(),
                    cache_salt: asked.cache_salt,
                    output_tokens: asked.output_tokens,
                    output: text::output(answer),
                    priority: asked.priority,
                };
                // Nobody answers to nobody when the server is going down.
                let _ = commands.send(Command::Submit(request, sender.clone()));
            }
        }
        Self { commands, tokens, first, choices, output_tokens: asked.output_tokens, used }
    }

    pub(super) fn choices(&self) -> usize {
        self.choices.len()
    }

    /// Tokens used so far.
    pub(super) const fn used(&self) -> Used {
        self.used
    }

    /// The next token of any choice; `None` when all are complete, or the engine is gone.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Made>> {
        if self.choices.iter().all(|choice| choice.made == self.output_tokens) {
            return Poll::Ready(None);
        }
        let token = std::task::ready!(self.tokens.poll_recv(context));
        Poll::Ready(token.map(|token| self.take(token)))
    }

    fn take(&mut self, token: MockToken) -> Made {
        let index = token.handle.wrapping_sub(self.first) as usize;
        let choice = &mut self.choices[index];
        let text = text::token_text(choice.answer, choice.made);
        let id = text::answer_id(choice.answer, choice.made);
        choice.made += 1;
        self.used.output += 1;
        self.used.cached += token.cached_tokens.filter(|_| choice.counts).unwrap_or(0);
        let (first, last) = (choice.made == 1, choice.made == self.output_tokens);
        Made { choice: index, text, id, first, last }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for (index, choice) in self.choices.iter().enumerate() {
            if choice.made < self.output_tokens {
                let handle = self.first.wrapping_add(index as u32);
                let _ = self.commands.send(Command::Abort(handle));
            }
        }
    }
}
