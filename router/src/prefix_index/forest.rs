//! What each instance holds, as trees, with the order in which to evict.
//!
//! A list of all blocks by last use would be simpler, but to use a prefix would then mean to move each
//! of its blocks. In a tree it is enough to move the last one: a block was used when the newest of
//! its descendants was. So the list holds every leaf, and of the inner blocks only those where a use
//! ended after their children's; the rest take a leaf's place when they become one.

/// Index of a [`Node`]. Only valid until that node is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(u32);

impl Default for NodeId {
    fn default() -> Self {
        Self::NONE
    }
}

impl NodeId {
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// One block on one instance; or the root of an instance, where its first blocks hang, which is also
/// the joint of its ring: `older` is the newest node there, `newer` the oldest.
#[derive(Clone, Debug)]
struct Node {
    block: u64,
    parent: NodeId,
    first_child: NodeId,
    previous_sibling: NodeId,
    next_sibling: NodeId,
    newer: NodeId,
    older: NodeId,
}

/// Trees in one slab, one for each instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Forest {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
}

impl Forest {
    /// An empty tree.
    pub(super) fn plant(&mut self) -> NodeId {
        let root = self.allocate(0, NodeId::NONE);
        (self.node_mut(root).newer, self.node_mut(root).older) = (root, root);
        root
    }

    /// Takes away a root without children.
    pub(super) fn uproot(&mut self, root: NodeId) {
        assert!(
            self.is_leaf(root) && self.node(root).parent.is_none(),
            "only an empty tree is uprooted"
        );
        self.free.push(root);
    }

    /// The block of a node that is not a root.
    pub(super) fn block(&self, id: NodeId) -> u64 {
        self.node(id).block
    }

    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).parent
    }

    pub(super) fn first_child(&self, id: NodeId) -> NodeId {
        self.node(id).first_child
    }

    /// `top` and all nodes below it, parents first.
    pub(super) fn descendants(&self, top: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(top), move |&node| {
            let child = self.first_child(node);
            if !child.is_none() {
                return Some(child);
            }
            let mut last = node;
            while last != top {
                let sibling = self.node(last).next_sibling;
                if !sibling.is_none() {
                    return Some(sibling);
                }
                last = self.parent(last);
            }
            None
        })
    }

    pub(super) fn is_leaf(&self, id: NodeId) -> bool {
        self.node(id).first_child.is_none()
    }

    /// Hangs a block below `parent`, outside the ring: the caller ends with [`use_before`](Self::use_before)
    /// on the last of a chain.
    pub(super) fn add(&mut self, parent: NodeId, block: u64) -> NodeId {
        let id = self.allocate(block, parent);
        let sibling = std::mem::replace(&mut self.node_mut(parent).first_child, id);
        if !sibling.is_none() {
            self.node_mut(id).next_sibling = sibling;
            self.node_mut(sibling).previous_sibling = id;
        }
        id
    }

    /// Removes a leaf. Its parent, if now a leaf outside the ring, takes its place: the leaf's last use
    /// was the parent's too.
    pub(super) fn remove_leaf(&mut self, id: NodeId) {
        assert!(self.is_leaf(id), "a block is removed after those that follow it");
        let Node { parent, previous_sibling, next_sibling, newer, .. } = *self.node(id);
        assert!(!parent.is_none(), "a root is uprooted, not removed");
        if previous_sibling.is_none() {
            self.node_mut(parent).first_child = next_sibling;
        } else {
            self.node_mut(previous_sibling).next_sibling = next_sibling;
        }
        if !next_sibling.is_none() {
            self.node_mut(next_sibling).previous_sibling = previous_sibling;
        }
        self.leave_ring(id);
        if self.is_leaf(parent) && !self.is_in_ring(parent) {
            self.join_ring(parent, newer);
        }
        self.free.push(id);
    }

    /// The node is where a use ended right before that of `newer`; of all uses the newest if that is the root.
    pub(super) fn use_before(&mut self, newer: NodeId, id: NodeId) {
        if newer != id {
            self.leave_ring(id);
            self.join_ring(id, newer);
        }
    }

    /// Takes a node out of eviction's sight, until it is used again.
    pub(super) fn leave_ring(&mut self, id: NodeId) {
        let Node { newer, older, .. } = *self.node(id);
        if self.is_in_ring(id) {
            self.node_mut(newer).older = older;
            self.node_mut(older).newer = newer;
            (self.node_mut(id).newer, self.node_mut(id).older) = (NodeId::NONE, NodeId::NONE);
        }
    }

    /// The leaf used longest ago of those in the ring, if there is one.
    pub(super) fn oldest_leaf(&mut self, root: NodeId) -> Option<NodeId> {
        loop {
            let oldest = self.node(root).newer;
            if oldest == root {
                return None;
            }
            if self.is_leaf(oldest) {
                return Some(oldest);
            }
            // Its children were used since.
            self.leave_ring(oldest);
        }
    }

    /// Whether eviction sees it, of itself or behind its descendants.
    pub(super) fn is_in_ring(&self, id: NodeId) -> bool {
        !self.node(id).newer.is_none()
    }

    /// Puts a node right behind `newer`.
    fn join_ring(&mut self, id: NodeId, newer: NodeId) {
        let older = std::mem::replace(&mut self.node_mut(newer).older, id);
        self.node_mut(older).newer = id;
        (self.node_mut(id).newer, self.node_mut(id).older) = (newer, older);
    }

    fn allocate(&mut self, block: u64, parent: NodeId) -> NodeId {
        let none = NodeId::NONE;
        let node = Node {
            block,
            parent,
            first_child: none,
            previous_sibling: none,
            next_sibling: none,
            newer: none,
            older: none,
        };
        if let Some(id) = self.free.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer blocks than 2^32"));
        assert!(!id.is_none(), "fewer blocks than 2^32");
        self.nodes.push(node);
        id
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}
