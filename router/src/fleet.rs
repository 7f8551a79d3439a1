//! The instances, in the order of their ids: the one place that iterates them, so that no decision can
//! depend on the order in which they joined.

use crate::decision::Rejected;
use crate::event::{InstanceId, InstanceSpec, Scraped};
use crate::ledger::Load;

/// What the router knows of one instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instance {
    /// Its name.
    pub id: InstanceId,
    /// What it said of itself when it joined.
    pub spec: InstanceSpec,
    /// What it owes, by the router's own books: exact and never old.
    pub load: Load,
    /// The newest of its metrics to arrive, if any has.
    pub scraped: Option<Scraped>,
}

impl Instance {
    /// vLLM refuses a prompt that leaves no room for one output token.
    const fn accepts(&self, prompt_tokens: u32) -> bool {
        prompt_tokens < self.spec.max_model_len_tokens
    }
}

/// The instances that can be chosen from.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// By id, ascending.
    instances: Vec<Instance>,
    /// Smallest `max_model_len_tokens`: a shorter prompt needs no look at every instance.
    shortest_model_len_tokens: u32,
}

impl Fleet {
    /// Every instance, by id, ascending.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The instance called `id`.
    pub fn get(&self, id: InstanceId) -> Option<&Instance> {
        self.position(id).map(|position| &self.instances[position])
    }

    pub(crate) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.position(id).map(|position| &mut self.instances[position])
    }

    pub(crate) fn at_mut(&mut self, position: usize) -> &mut Instance {
        &mut self.instances[position]
    }

    /// Index into [`instances`](Self::instances).
    pub(crate) fn position(&self, id: InstanceId) -> Option<usize> {
        // Where it is as long as nobody has left: in a large fleet a search waits for memory at every step.
        let likely = id.0 as usize;
        if self.instances.get(likely).is_some_and(|instance| instance.id == id) {
            return Some(likely);
        }
        self.instances.binary_search_by_key(&id, |instance| instance.id).ok()
    }

    /// Adds an instance, unless it is there already. Answers whether it was added.
    pub(crate) fn join(&mut self, id: InstanceId, spec: InstanceSpec) -> bool {
        let Err(position) = self.instances.binary_search_by_key(&id, |instance| instance.id) else {
            return false;
        };
        self.instances
            .insert(position, Instance { id, spec, load: Load::default(), scraped: None });
        self.summarise();
        true
    }

    /// Removes an instance with all that it owed.
    pub(crate) fn leave(&mut self, position: usize) {
        self.instances.remove(position);
        self.summarise();
    }

    /// Finds who may take a prompt, those in `avoid` excepted. `None` means everybody, which is the common
    /// case and costs nothing; otherwise `positions` lists them.
    pub(crate) fn eligible<'a>(
        &self,
        prompt_tokens: u32,
        avoid: &[InstanceId],
        positions: &'a mut Vec<usize>,
    ) -> Result<Option<&'a [usize]>, Rejected> {
        if avoid.is_empty()
            && !self.instances.is_empty()
            && prompt_tokens < self.shortest_model_len_tokens
        {
            return Ok(None);
        }
        let allowed = |instance: &&Instance| !avoid.contains(&instance.id);
        positions.clear();
        positions.extend((0..self.instances.len()).filter(|&position| {
            let instance = &self.instances[position];
            allowed(&instance) && instance.accepts(prompt_tokens)
        }));
        if positions.is_empty() {
            let longest = self
                .instances
                .iter()
                .filter(allowed)
                .map(|instance| instance.spec.max_model_len_tokens)
                .max()
                .ok_or(Rejected::NoInstance)?;
            let longest_accepted_tokens = longest.saturating_sub(1);
            return Err(Rejected::PromptTooLong { prompt_tokens, longest_accepted_tokens });
        }
        Ok(Some(positions))
    }

    fn summarise(&mut self) {
        let lengths = self.instances.iter().map(|instance| instance.spec.max_model_len_tokens);
        self.shortest_model_len_tokens = lengths.min().unwrap_or(0);
    }
}
