//! The books of the key-value store: which branch sees which pages.
//!
//! Why: search, best-of-N, exact re-draws and rollback all fork and cut sequences. Copying keys and values
//! for that would cost megabytes; here a fork is one counter and a cut is a few.
//!
//! How: a branch has a length and a page table; forks share the table until one of them grows into its last
//! page (copy on write). A table counts the branches that hold it, a page counts the tables that list it.
//! Every table lists exactly the pages its branches' tokens fill, so all branches of one table have the same
//! number of pages, though not always of tokens.
//!
//! Growing is a transaction: [`KvBooks::grow`] reserves, then [`KvBooks::commit`] or [`KvBooks::rollback`].
//! A writer that shares its last page always writes to a copy, and the original stays counted until the
//! commit; so a step that fails after computing leaves nothing to repair. The price: when all holders of a
//! shared page diverge in one step, the page itself is spare only after the commit.
//!
//! Cost: fork O(1); truncate, free and the first write after a fork O(pages); growing by a token O(1).
//! Steady decoding allocates nothing: a table is made with room for a whole context, and tables and slots
//! are recycled.
//!
//! Loses when: most branches are shorter than a page. Each holds a page of its own.

use super::PAGE_TOKENS;

/// Index of a branch's entry in the books.
pub(super) type SlotId = u32;
type TableId = u32;

/// Pages, tables and slots with their counts.
#[derive(Debug)]
pub(super) struct KvBooks {
    /// Tables that list the page, `[n_pages]`.
    page_refs: Vec<u32>,
    free_pages: Vec<u32>,
    tables: Vec<Table>,
    /// Pages of a whole context: the room a new table is made with.
    table_room: usize,
    free_tables: Vec<TableId>,
    slots: Vec<Slot>,
    free_slots: Vec<SlotId>,
}

#[derive(Debug)]
struct Table {
    pages: Vec<u32>,
    /// Slots, and growths under way, that hold the table.
    refs: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    table: TableId,
    len: usize,
    /// The last batch this branch was part of.
    batch: u64,
}

/// A reserved growth of one branch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    slot: SlotId,
    table: TableId,
    /// Pages the table had before, if it is the branch's own.
    n_pages_before: usize,
    /// Length before the growth, in tokens.
    pub(super) len_before: usize,
    /// Length after the growth, in tokens.
    pub(super) len_after: usize,
}

/// Cells to copy before a growth may be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageCopy {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) n_cells: usize,
}

/// Too few free pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) needed: usize,
    pub(super) free: usize,
}

fn pages_for(n_tokens: usize) -> usize {
    n_tokens.div_ceil(PAGE_TOKENS)
}

impl KvBooks {
    /// Books of `n_pages` pages for branches of at most `n_ctx` tokens.
    pub(super) fn new(n_pages: usize, n_ctx: usize) -> Self {
        let table_room = pages_for(n_ctx).min(n_pages);
        let n_pages = u32::try_from(n_pages).unwrap_or(u32::MAX);
        Self {
            page_refs: vec![0; n_pages as usize],
            free_pages: (0..n_pages).rev().collect(),
            tables: Vec::new(),
            table_room,
            free_tables: Vec::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
        }
    }

    pub(super) fn n_free_pages(&self) -> usize {
        self.free_pages.len()
    }

    pub(super) fn n_pages(&self) -> usize {
        self.page_refs.len()
    }

    pub(super) fn len(&self, slot: SlotId) -> usize {
        self.slots[slot as usize].len
    }

    /// The pages of a branch.
    pub(super) fn pages_of(&self, slot: SlotId) -> &[u32] {
        &self.tables[self.slots[slot as usize].table as usize].pages
    }

    /// The pages a growth will fill, in order.
    pub(super) fn pages(&self, growth: &Growth) -> &[u32] {
        &self.tables[growth.table as usize].pages
    }

    /// An empty branch.
    pub(super) fn root(&mut self) -> SlotId {
        let table = self.new_table();
        self.new_slot(table, 0)
    }

    /// A branch with the same past.
    pub(super) fn fork(&mut self, slot: SlotId) -> SlotId {
        let Slot { table, len, .. } = self.slots[slot as usize];
        self.tables[table as usize].refs += 1;
        self.new_slot(table, len)
    }

    /// Cuts the branch to `len` tokens, at most its length.
    pub(super) fn truncate(&mut self, slot: SlotId, len: usize) {
        let Slot { table, .. } = self.slots[slot as usize];
        let keep = pages_for(len);
        if self.tables[table as usize].refs == 1 {
            self.cut_table(table, keep);
        } else if keep < self.tables[table as usize].pages.len() {
            self.slots[slot as usize].table = self.copy_table(table, keep);
            self.tables[table as usize].refs -= 1;
        }
        self.slots[slot as usize].len = len;
    }

    /// Ends the branch; pages only it used are free again.
    pub(super) fn free(&mut self, slot: SlotId) {
        self.release_table(self.slots[slot as usize].table);
        self.free_slots.push(slot);
    }

    /// Marks the branch as part of `batch`; false if it was already.
    pub(super) fn enter_batch(&mut self, slot: SlotId, batch: u64) -> bool {
        std::mem::replace(&mut self.slots[slot as usize].batch, batch) != batch
    }

    /// Reserves pages for `n` more tokens. What must be copied first is added to `copies`.
    /// # Errors Nothing has changed when pages are short.
    pub(super) fn grow(
        &mut self,
        slot: SlotId,
        n: usize,
        copies: &mut Vec<PageCopy>,
    ) -> Result<Growth, Shortage> {
        let Slot { table, len, .. } = self.slots[slot as usize];
        let whole = len / PAGE_TOKENS;
        let shared_tail = self.shares_tail(table, len);
        let had = self.tables[table as usize].pages.len();
        let needed = pages_for(len + n) - if shared_tail { whole } else { had };
        if needed > self.free_pages.len() {
            return Err(Shortage { needed, free: self.free_pages.len() });
        }
        let own = self.tables[table as usize].refs == 1 && !shared_tail;
        let target = if own { table } else { self.copy_table(table, if shared_tail { whole } else { had }) };
        for _ in 0..needed {
            self.add_page(target);
        }
        if shared_tail {
            let (from, to) = (self.page(table, whole), self.page(target, whole));
            copies.push(PageCopy { from, to, n_cells: len % PAGE_TOKENS });
        }
        Ok(Growth { slot, table: target, n_pages_before: had, len_before: len, len_after: len + n })
    }

    /// Makes the growth part of its branch.
    pub(super) fn commit(&mut self, growth: &Growth) {
        let slot = &mut self.slots[growth.slot as usize];
        slot.len = growth.len_after;
        let old = std::mem::replace(&mut slot.table, growth.table);
        if old != growth.table {
            self.release_table(old);
        }
    }

    /// Gives back what the growth reserved; its branch is as before.
    pub(super) fn rollback(&mut self, growth: &Growth) {
        if self.slots[growth.slot as usize].table == growth.table {
            self.cut_table(growth.table, growth.n_pages_before);
        } else {
            self.release_table(growth.table);
        }
    }

    /// Whether the page that token `len` would go to already holds tokens of this and of another branch.
    fn shares_tail(&self, table: TableId, len: usize) -> bool {
        let t = &self.tables[table as usize];
        !len.is_multiple_of(PAGE_TOKENS)
            && (t.refs > 1 || self.page_refs[t.pages[len / PAGE_TOKENS] as usize] > 1)
    }

    fn page(&self, table: TableId, i: usize) -> u32 {
        self.tables[table as usize].pages[i]
    }

    fn new_slot(&mut self, table: TableId, len: usize) -> SlotId {
        let slot = Slot { table, len, batch: 0 };
        match self.free_slots.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as SlotId
            }
        }
    }

    /// An empty table, held once.
    fn new_table(&mut self) -> TableId {
        let id = self.free_tables.pop().unwrap_or_else(|| {
            self.tables.push(Table { pages: Vec::with_capacity(self.table_room), refs: 0 });
            (self.tables.len() - 1) as TableId
        });
        self.tables[id as usize].refs = 1;
        id
    }

    /// A table of the first `keep` pages of `from`, held once.
    fn copy_table(&mut self, from: TableId, keep: usize) -> TableId {
        let id = self.new_table();
        let mut pages = std::mem::take(&mut self.tables[id as usize].pages);
        pages.extend_from_slice(&self.tables[from as usize].pages[..keep]);
        for page in &pages {
            self.page_refs[*page as usize] += 1;
        }
        self.tables[id as usize].pages = pages;
        id
    }

    /// Puts a free page at the end of the table. The caller has seen that there is one.
    fn add_page(&mut self, table: TableId) {
        if let Some(page) = self.free_pages.pop() {
            self.page_refs[page as usize] = 1;
            self.tables[table as usize].pages.push(page);
        }
    }

    fn cut_table(&mut self, table: TableId, keep: usize) {
        let Self { tables, page_refs, free_pages, .. } = self;
        for page in tables[table as usize].pages.drain(keep..) {
            page_refs[page as usize] -= 1;
            if page_refs[page as usize] == 0 {
                free_pages.push(page);
            }
        }
    }

    fn release_table(&mut self, table: TableId) {
        self.tables[table as usize].refs -= 1;
        if self.tables[table as usize].refs == 0 {
            self.cut_table(table, 0);
            self.free_tables.push(table);
        }
    }
}

#[cfg(test)]
impl KvBooks {
    /// Recounts everything from the slots up and compares with the counters.
    pub(super) fn audit(&self) {
        let live = |s: &u32| !self.free_slots.contains(s);
        let mut table_refs = vec![0; self.tables.len()];
        for slot in (0..self.slots.len() as u32).filter(live) {
            let Slot { table, len, .. } = self.slots[slot as usize];
            table_refs[table as usize] += 1;
            assert_eq!(self.tables[table as usize].pages.len(), pages_for(len), "pages of slot {slot}");
        }
        let mut page_refs = vec![0; self.page_refs.len()];
        for (table, refs) in self.tables.iter().zip(&table_refs) {
            assert_eq!(table.refs, *refs, "holders of a table");
            table.pages.iter().for_each(|p| page_refs[*p as usize] += 1);
        }
        assert_eq!(self.page_refs, page_refs);
        let mut free: Vec<u32> = self.free_pages.clone();
        free.sort_unstable();
        let unused: Vec<u32> =
            (0..self.page_refs.len() as u32).filter(|p| page_refs[*p as usize] == 0).collect();
        assert_eq!(free, unused, "free pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(books: &mut KvBooks, slot: SlotId, n: usize) -> Vec<PageCopy> {
        let mut copies = Vec::new();
        let g = books.grow(slot, n, &mut copies).expect("pages");
        books.commit(&g);
        books.audit();
        copies
    }

    #[test]
    fn a_fork_shares_until_it_writes_into_the_shared_page() {
        let mut books = KvBooks::new(8, 1000);
        let a = books.root();
        grow(&mut books, a, 40);
        let b = books.fork(a);
        assert_eq!(books.n_free_pages(), 6);
        let copies = grow(&mut books, b, 1);
        assert_eq!((copies.len(), copies[0].n_cells), (1, 8));
        assert_eq!(books.n_free_pages(), 5);
        assert!(grow(&mut books, a, 1).is_empty(), "the page is its own again");
        books.free(a);
        books.free(b);
        books.audit();
        assert_eq!(books.n_free_pages(), 8);
    }

    #[test]
    fn a_fork_at_a_page_border_copies_nothing() {
        let mut books = KvBooks::new(8, 1000);
        let a = books.root();
        grow(&mut books, a, PAGE_TOKENS);
        let b = books.fork(a);
        assert!(grow(&mut books, b, 1).is_empty());
        assert!(grow(&mut books, a, 1).is_empty());
        assert_eq!(books.n_free_pages(), 5);
    }

    #[test]
    fn a_growth_rolled_back_leaves_no_trace() {
        let mut books = KvBooks::new(3, 1000);
        let a = books.root();
        grow(&mut books, a, 10);
        let b = books.fork(a);
        let mut copies = Vec::new();
        for (slot, n) in [(a, 1), (b, 30)] {
            let g = books.grow(slot, n, &mut copies).expect("pages");
            books.rollback(&g);
            books.audit();
            assert_eq!((books.n_free_pages(), books.len(slot)), (2, 10));
        }
        assert_eq!(books.grow(b, 100, &mut copies).err(), Some(Shortage { needed: 4, free: 2 }));
        books.audit();
    }
}
