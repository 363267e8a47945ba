//! What is known of the texts: a trie of visited prefixes with upper bounds on their futures.

use super::softmax::{Norm, Softmax};
use crate::token::{TokenId, TokenSet};
use std::cmp::Reverse;

pub(super) type NodeId = u32;
pub(super) const ROOT: NodeId = 0;

/// The large part of a node, dropped when memory is short and computed again when needed.
#[derive(Debug)]
pub(super) struct Cached {
    /// Logits, `[n_vocab]`.
    pub(super) row: Box<[f32]>,
    /// Allowed tokens that have no child. Ends stay here.
    pub(super) open: TokenSet,
}

/// A visited prefix.
#[derive(Debug)]
pub(super) struct Node {
    /// The draw that made it.
    pub(super) born: u32,
    /// Upper bound on the probability that the model goes on from here into the language.
    pub(super) theta: f64,
    /// `Σ P` over allowed tokens, with children or not.
    pub(super) allowed: f64,
    /// `Σ P` over `open`.
    base: f64,
    pub(super) norm: Norm,
    /// Token, node and `P(token)` of each child, by token.
    pub(super) children: Vec<(TokenId, NodeId, f64)>,
    pub(super) cached: Option<Cached>,
    last_used: u32,
}

/// Prefixes and their bounds.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    n_cached: usize,
    max_cached: usize,
}

impl Trie {
    /// Keeps at most `cache_bytes` of rows and masks (of two nodes at least) for a vocabulary.
    pub(super) fn new(n_vocab: usize, cache_bytes: usize) -> Self {
        let node_bytes = n_vocab * size_of::<f32>() + n_vocab.div_ceil(8);
        Self { nodes: Vec::new(), n_cached: 0, max_cached: (cache_bytes / node_bytes.max(1)).max(2) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// Upper bound at the root; 1 before anything was visited.
    pub(super) fn theta_root(&self) -> f64 {
        self.nodes.first().map_or(1.0, |n| n.theta)
    }

    /// A new node of a row and the tokens allowed after it; child of `parent` by a token, unless the root.
    pub(super) fn add(
        &mut self,
        parent: Option<(NodeId, TokenId)>,
        cached: Cached,
        norm: Norm,
        softmax: &mut Softmax,
        draw: u32,
    ) -> NodeId {
        let id = self.nodes.len() as NodeId;
        let base = softmax.mass(&cached.row, norm, &cached.open);
        self.make_room(parent.map(|p| p.0));
        let (children, cached) = (Vec::new(), Some(cached));
        let node =
            Node { born: draw, theta: base, allowed: base, base, norm, children, cached, last_used: draw };
        self.nodes.push(node);
        self.n_cached += 1;
        if let Some((parent, token)) = parent {
            self.attach(parent, token, id, softmax);
        }
        id
    }

    /// Moves `token` of `parent` from the open tokens to the children.
    fn attach(&mut self, parent: NodeId, token: TokenId, child: NodeId, softmax: &mut Softmax) {
        let node = &mut self.nodes[parent as usize];
        if let Some(cached) = &mut node.cached {
            cached.open.remove(token);
            // Summed again, not subtracted: what is left may be tiny.
            node.base = softmax.mass(&cached.row, node.norm, &cached.open);
            let p = softmax.prob(&cached.row, node.norm, token);
            let i = node.children.partition_point(|c| c.0 < token);
            node.children.insert(i, (token, child, p));
        }
    }

    /// Puts back what a node lost when memory was short. `open`: all allowed tokens.
    pub(super) fn restore(&mut self, id: NodeId, mut cached: Cached, draw: u32) {
        self.make_room(None);
        let node = &mut self.nodes[id as usize];
        node.children.iter().for_each(|c| cached.open.remove(c.0));
        node.cached = Some(cached);
        node.last_used = draw;
        self.n_cached += 1;
    }

    pub(super) fn touch(&mut self, id: NodeId, draw: u32) {
        self.nodes[id as usize].last_used = draw;
    }

    pub(super) fn child(&self, id: NodeId, token: TokenId) -> Option<NodeId> {
        let children = &self.node(id).children;
        children.binary_search_by_key(&token, |c| c.0).ok().map(|i| children[i].1)
    }

    /// Makes room for one more row: drops a quarter of those held, the least recently used first, of one
    /// draw the deepest first. `keep` is in use.
    fn make_room(&mut self, keep: Option<NodeId>) {
        if self.n_cached < self.max_cached {
            return;
        }
        let all = self.nodes.iter().zip(0..);
        let held = all.filter(|(n, id)| n.cached.is_some() && Some(*id) != keep);
        let mut held: Vec<(u32, Reverse<NodeId>)> = held.map(|(n, id)| (n.last_used, Reverse(id))).collect();
        held.sort_unstable();
        for (_, Reverse(id)) in held.iter().take((held.len() / 4).max(1)) {
            self.nodes[*id as usize].cached = None;
            self.n_cached -= 1;
        }
    }

    /// The token at `target` of the node's cumulated weights: children first, then open tokens. A child
    /// weighs `P·theta`, an open token `P`.
    pub(super) fn token_at(&self, id: NodeId, mut target: f64, softmax: &mut Softmax) -> Option<TokenId> {
        let node = self.node(id);
        let mut last = None;
        for (token, child, p) in &node.children {
            let w = p * self.node(*child).theta;
            if w > 0.0 {
                last = Some(*token);
                target -= w;
                if target < 0.0 {
                    return last;
                }
            }
        }
        match &node.cached {
            Some(c) if node.base > 0.0 => Some(softmax.token_at(&c.row, node.norm, Some(&c.open), target)),
            // Rounding only: the last child with weight.
            _ => last,
        }
    }

    /// Lowers the bounds along a path from the root, deepest first.
    pub(super) fn update(&mut self, path: &[NodeId]) {
        for id in path.iter().rev() {
            let node = self.node(*id);
            let below: f64 = node.children.iter().map(|(_, child, p)| p * self.node(*child).theta).sum();
            let theta = node.base + below;
            // A bound never rises; the sums above may, by rounding.
            let node = &mut self.nodes[*id as usize];
            node.theta = node.theta.min(theta);
        }
    }
}
