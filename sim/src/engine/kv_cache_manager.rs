//! Gives KV cache blocks to requests. Mirrors `vllm/v1/core/kv_cache_manager.py` for a model with one
//! group of full-attention layers.

use super::block_pool::{BlockId, BlockPool};
use super::config::EngineConfig;
use super::kv_events::KvEvent;
use super::request::Request;

/// The blocks of one engine and the rules by which requests get them.
#[derive(Clone, Debug)]
pub(crate) struct KvCacheManager {
    pub(crate) pool: BlockPool,
    block_size: u32,
    max_model_len: u32,
    enable_prefix_caching: bool,
    reserve_full_isl: bool,
    /// Blocks kept free when admitting beside running requests.
    watermark_blocks: u32,
    /// Blocks of the last [`Self::get_computed_blocks`].
    hits: Vec<BlockId>,
}

/// What an admission asks for beyond what every allocation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The request runs already and needs room for its next tokens.
    Continue,
    /// The request leaves the waiting queue, with the hits just looked up.
    Admit {
        /// Others run: the watermark applies.
        beside_running: bool,
    },
}

impl KvCacheManager {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        Self {
            pool: BlockPool::new(config.num_blocks),
            block_size: config.block_size,
            max_model_len: config.max_model_len,
            enable_prefix_caching: config.enable_prefix_caching,
            reserve_full_isl: config.scheduler_reserve_full_isl,
            watermark_blocks: (config.watermark * f64::from(config.num_blocks)) as u32,
            hits: Vec::new(),
        }
    }

    /// Looks up the cached prefix of a request about to be admitted; returns its length in tokens.
    ///
    /// The last token is always computed, since its logits are needed: a prompt of whole blocks that is
    /// cached to its end computes its last block again.
    pub(crate) fn get_computed_blocks(&mut self, request: &Request) -> u32 {
        self.hits.clear();
        if !self.enable_prefix_caching || request.ticket.skip_reading_prefix_cache {
            return 0;
        }
        let usable = ((request.tokens() - 1) / self.block_size) as usize;
        let findable = usable.min(request.shared_blocks as usize);
        for &key in &request.ticket.keys[..findable] {
            let Some(block) = self.pool.cached(key) else { break };
            self.hits.push(block);
        }
        self.hits.len() as u32 * self.block_size
    }

    /// Makes room for tokens `start..start + tokens` of a request; `false` changes nothing.
    ///
    /// Blocks that these tokens fill are registered at once, before the step has run: a request admitted
    /// later in the same step may hit them.
    pub(crate) fn allocate_slots(
        &mut self,
        request: &mut Request,
        start: u32,
        tokens: u32,
        purpose: Purpose,
    ) -> bool {
        let end = start + tokens;
        let want = end.min(self.max_model_len).div_ceil(self.block_size);
        let new_blocks = match purpose {
            Purpose::Continue => {
                let held = start.div_ceil(self.block_size);
                debug_assert_eq!(held, request.ticket.blocks.len() as u32, "up to where it is");
                let new_blocks = want.saturating_sub(held);
                if new_blocks > self.pool.free() {
                    return false;
                }
                new_blocks
            }
            Purpose::Admit { beside_running } => {
                debug_assert!(request.ticket.blocks.is_empty(), "waiting requests hold no blocks");
                if !self.has_room_to_admit(request, want, beside_running) {
                    return false;
                }
                for &hit in &self.hits {
                    self.pool.touch(hit);
                }
                let table = &mut request.ticket.blocks;
                let whole = request.prompt_tokens + request.max_tokens;
                table.reserve_exact(whole.div_ceil(self.block_size) as usize);
                table.extend_from_slice(&self.hits);
                request.cached_blocks = self.hits.len() as u32;
                want.saturating_sub(self.hits.len() as u32)
            }
        };
        // Mostly none are needed; then the table's memory is left alone.
        if new_blocks > 0 {
            request.ticket.blocks.extend((0..new_blocks).map(|_| self.pool.take()));
        }
        self.register_full_blocks(request, end.min(request.tokens()));
        true
    }

    /// Hits that nobody holds must leave the free queue, so they cost a free block each.
    fn has_room_to_admit(&self, request: &Request, want: u32, beside_running: bool) -> bool {
        let hits = self.hits.len() as u32;
        let revived = self.hits.iter().filter(|&&hit| !self.pool.is_referenced(hit)).count() as u32;
        let kept_free = if beside_running { self.watermark_blocks } else { 0 };
        let fits =
            |blocks: u32| blocks.saturating_sub(hits) + revived + kept_free <= self.pool.free();
        if self.reserve_full_isl {
            let whole = request.tokens().min(self.max_model_len).div_ceil(self.block_size);
            if !fits(whole) {
                return false;
            }
        }
        fits(want)
    }

    /// Makes the full blocks among a request's first `tokens` tokens findable.
    pub(crate) fn register_full_blocks(&mut self, request: &mut Request, tokens: u32) {
        if !self.enable_prefix_caching {
            return;
        }
        let full = tokens / self.block_size;
        if self.pool.logs_events() && request.cached_blocks < full {
            self.log_stored(request, full);
        }
        if full <= request.cached_blocks {
            return;
        }
        let listed = full.min(request.shared_blocks).max(request.cached_blocks);
        for at in request.cached_blocks..listed {
            self.pool
                .register(request.ticket.blocks[at as usize], request.ticket.keys[at as usize]);
        }
        self.pool.register_unlisted(full - listed);
        request.cached_blocks = full;
    }

    /// Returns all blocks of a request that comes back and looks for them; `stream` as for
    /// [`Request::share_with_itself`].
    pub(crate) fn free_and_list(&mut self, request: &mut Request, stream: u64) {
        let unlisted = request.shared_blocks..request.cached_blocks;
        request.share_with_itself(stream, self.block_size);
        for at in unlisted {
            self.pool.list(request.ticket.blocks[at as usize], request.ticket.keys[at as usize]);
        }
        self.free(request);
    }

    /// A request's blocks up to `full` become findable.
    #[cold]
    fn log_stored(&mut self, request: &Request, full: u32) {
        let (first, end) = (request.cached_blocks as usize, full as usize);
        let parent = first.checked_sub(1).map(|before| request.ticket.keys[before]);
        let blocks = request.ticket.keys[first..end].to_vec();
        self.pool.log(KvEvent::Stored { parent, blocks });
    }

    /// Returns all blocks of a request.
    pub(crate) fn free(&mut self, request: &mut Request) {
        let cached = request.cached_blocks;
        let listed = cached.min(request.shared_blocks);
        self.pool.release(&request.ticket.blocks, listed as usize, cached as usize);
        request.ticket.blocks.clear();
        request.cached_blocks = 0;
    }
}
