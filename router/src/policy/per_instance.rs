//! Something a policy remembers of each instance, by id: positions change when instances come and go.

use crate::event::InstanceId;

/// A value for each instance that has one, by id, ascending.
#[derive(Clone, Debug)]
pub(super) struct PerInstance<T> {
    entries: Vec<(InstanceId, T)>,
}

impl<T> Default for PerInstance<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T: Default> PerInstance<T> {
    pub(super) fn get(&self, instance: InstanceId) -> Option<&T> {
        self.find(instance).ok().map(|at| &self.entries[at].1)
    }

    /// The value of an instance, made if there is none.
    pub(super) fn entry(&mut self, instance: InstanceId) -> &mut T {
        let at = self.find(instance).unwrap_or_else(|at| {
            self.entries.insert(at, (instance, T::default()));
            at
        });
        &mut self.entries[at].1
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, instance: InstanceId) {
        if let Ok(at) = self.find(instance) {
            self.entries.remove(at);
        }
    }

    fn find(&self, instance: InstanceId) -> Result<usize, usize> {
        // Ids are counted from zero: until somebody has left, each stands where its number says.
        let at = instance.0 as usize;
        if self.entries.get(at).is_some_and(|(id, _)| *id == instance) {
            return Ok(at);
        }
        self.entries.binary_search_by_key(&instance, |(id, _)| *id)
    }
}
