//! Rewards of the caller's own, for searches.

use crate::log::UserData;
use crate::status::{Failure, Result};
use crate::text::{Versioned, listed, text};
use std::ffi::{c_char, c_void};
use truing::reward::{Candidate, Part, Reward, RewardUnit, Score, Status, Transform};
use truing::{Error, ErrorKind};

/// `truing_reward.flags`: asking costs microseconds, so texts may be scored while they grow; what cannot win is given
/// up early. The scores of open texts must then be bounds that hold.
pub const TRUING_REWARD_CHEAP: u32 = 1;
/// `truing_reward.flags`: an open text says too little about its end to be scored.
pub const TRUING_REWARD_NEEDS_CLOSED: u32 = 2;

/// A text to score. Lives during the callback.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_candidate {
    /// Size of the struct in the library; may be larger than in this header.
    pub struct_size: usize,
    /// What the user said last in truing_session_prompt_chat, `prompt_len` bytes; empty otherwise.
    pub prompt: *const c_char,
    /// Bytes of `prompt`.
    pub prompt_len: usize,
    /// The text, `text_len` bytes of whole characters without a zero.
    pub text: *const c_char,
    /// Bytes of `text`.
    pub text_len: usize,
    /// 1: nothing follows it. 0: it goes on.
    pub is_closed: i32,
    /// 0; kept free.
    pub reserved: u32,
}

/// What a reward says of a text. Filled with what counts if the callback leaves it so.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_score {
    /// Size of the struct in the library; may be larger than in this header.
    pub struct_size: usize,
    /// The reward; within the bounds of truing_reward. 0 at first.
    pub value: f64,
    /// No continuation of an open text has less; the reward's own bound at first. Not looked at for closed texts.
    pub least: f64,
    /// No continuation has more.
    pub most: f64,
    /// For `combine = "gate"`: 1 if the text does what is asked, 0 if not, -1 if what follows decides. Not looked at
    /// otherwise. At first -1, which for a closed text stands for whether `value` is above 0.
    pub satisfied: i32,
    /// 0; kept free.
    pub reserved: u32,
}

/// Scores a text; the same text must always get the same score. Returns 0 to go on, anything else to stop the search:
/// then truing_session_generate returns TRUING_E_CANCELLED. Rules as for truing_event_fn. A score that is no number or
/// outside its bounds ends the call with TRUING_E_REWARD.
pub type truing_reward_fn = Option<
    unsafe extern "C-unwind" fn(
        user_data: *mut c_void,
        candidate: *const truing_candidate,
        score: *mut truing_score,
    ) -> i32,
>;

/// A reward of the caller's own, beside those of the profile. Set `struct_size` and everything else to zero.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct truing_reward {
    /// `sizeof(truing_reward)`.
    pub struct_size: usize,
    /// Scores a text; must be there.
    pub score: truing_reward_fn,
    /// Handed to `score`.
    pub user_data: *mut c_void,
    /// What it is called in reports (UTF-8); NULL: "custom".
    pub name: *const c_char,
    /// Bytes of `name`, or TRUING_CSTR.
    pub name_len: usize,
    /// Its weight among several, below 0 to avoid what it rewards; 0: 1.
    pub weight: f64,
    /// No text has less; may be -INFINITY. `least` and `most` both 0: 0 and 1.
    pub least: f64,
    /// No text has more; may be INFINITY. Values between 0 and 1 are read as probabilities: a search that combines
    /// rewards by "and", as it does with several if the profile says nothing, takes their logarithm.
    pub most: f64,
    /// The smallest difference that means something; 0: 1.
    pub step: f64,
    /// TRUING_REWARD_….
    pub flags: u32,
    /// 0; kept free.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, `struct_size` first; an optional function, pointers and numbers may be anything or zero.
unsafe impl Versioned for truing_reward {
    const FIRST_SIZE: usize = size_of::<Self>();
}

type RewardFn = unsafe extern "C-unwind" fn(*mut c_void, *const truing_candidate, *mut truing_score) -> i32;

/// A reward that a function of the caller's gives.
struct Custom {
    name: String,
    function: RewardFn,
    user_data: UserData,
    range: (f64, f64),
    step: f64,
    flags: u32,
}

/// The rewards that a caller lists.
/// # Safety
/// `rewards` has `n` pointers to structs that are as they say.
pub(crate) unsafe fn parts(rewards: *const *const truing_reward, n: usize) -> Result<Vec<Part>> {
    // SAFETY: the caller's promise.
    let given = unsafe { listed(rewards, n, "rewards", "truing_reward") }?;
    // SAFETY: as above.
    given.into_iter().map(|reward| unsafe { part(reward) }).collect()
}

unsafe fn part(given: truing_reward) -> Result<Part> {
    let function = given
        .score
        .ok_or_else(|| Failure::invalid("truing_reward.score: expected a function, found NULL"))?;
    let name = match given.name.is_null() {
        true => "custom",
        // SAFETY: the caller's promise.
        false => unsafe { text(given.name, given.name_len, "truing_reward.name") }?,
    };
    let range = if (given.least, given.most) == (0.0, 0.0) { (0.0, 1.0) } else { (given.least, given.most) };
    let step = if given.step == 0.0 { 1.0 } else { given.step };
    let is_sound = range.0 < range.1 && step.is_finite() && step > 0.0 && given.weight.is_finite();
    if !is_sound {
        let message = format!(
            "reward {name}: expected least below most, a finite weight and a step above 0, found {} to {}, {} and {}",
            given.least, given.most, given.weight, given.step
        );
        return Err(Failure::invalid(message));
    }
    crate::vocab::check_flags(given.flags, TRUING_REWARD_CHEAP | TRUING_REWARD_NEEDS_CLOSED)?;
    let reward = Custom {
        name: name.to_owned(),
        function,
        user_data: UserData(given.user_data),
        range,
        step,
        flags: given.flags,
    };
    let weight = if given.weight == 0.0 { 1.0 } else { given.weight };
    Ok(Part { reward: Box::new(reward), weight, transform: Transform::None })
}

impl Reward for Custom {
    fn name(&self) -> &str {
        &self.name
    }

    fn unit(&self) -> RewardUnit {
        match self.range {
            (lo, hi) if lo >= 0.0 && hi <= 1.0 => RewardUnit::Probability,
            _ => RewardUnit::Raw,
        }
    }

    fn range(&self) -> (f64, f64) {
        self.range
    }

    fn step(&self) -> f64 {
        self.step
    }

    fn is_cheap(&self) -> bool {
        self.flags & TRUING_REWARD_CHEAP != 0
    }

    fn needs_closed(&self) -> bool {
        self.flags & TRUING_REWARD_NEEDS_CLOSED != 0
    }

    fn score(&mut self, prompt: &str, candidate: Candidate<'_>) -> truing::Result<Score> {
        let asked = truing_candidate {
            struct_size: size_of::<truing_candidate>(),
            prompt: prompt.as_ptr().cast(),
            prompt_len: prompt.len(),
            text: candidate.text.as_ptr().cast(),
            text_len: candidate.text.len(),
            is_closed: i32::from(candidate.is_closed),
            reserved: 0,
        };
        let (least, most) = self.range;
        let mut said = truing_score {
            struct_size: size_of::<truing_score>(),
            value: 0.0,
            least,
            most,
            satisfied: -1,
            reserved: 0,
        };
        // SAFETY: the caller gave this function for this; both structs and the texts live until it returns.
        let code = unsafe { (self.function)(self.user_data.0, &raw const asked, &raw mut said) };
        if code != 0 {
            return Err(Error::new(ErrorKind::Cancelled, format!("stopped by the reward {}", self.name)));
        }
        self.judged(said, candidate.is_closed)
    }
}

impl Custom {
    fn judged(&self, said: truing_score, is_closed: bool) -> truing::Result<Score> {
        let (least, most) = self.range;
        if !(least <= said.value && said.value <= most && said.value.is_finite()) {
            let message = format!("expected a finite number from {least} to {most}, found {}", said.value);
            return Err(Error::new(ErrorKind::Reward, message).at(format!("reward {}", self.name)));
        }
        let status = match said.satisfied {
            0 => Status::Violated,
            1 => Status::Satisfied,
            _ if !is_closed => Status::Open,
            _ if said.value > 0.0 => Status::Satisfied,
            _ => Status::Violated,
        };
        // bounds are checked where scores are put together
        Ok(match is_closed {
            true => Score { value: said.value, lo: said.value, hi: said.value, status },
            false => Score { value: said.value, lo: said.least, hi: said.most, status },
        })
    }
}
