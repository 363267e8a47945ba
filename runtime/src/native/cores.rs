//! Which processors compute: one thread a physical core, of the fast kind where kinds differ.
//!
//! Why: two threads of one core share its vector units, so a second brings little and takes much of what else runs; a
//! slow core that takes a piece of work late holds the fast ones up. Linux tells both in `/sys`; elsewhere one thread a
//! processor is taken. Cost: some reads of small files when a context is made. It loses where the fast cores are busy
//! and the slow ones idle: threads and processors can be given.

use crate::error::{Error, ErrorKind, Result};
use std::path::Path;

/// Where Linux tells of processors.
const SYSTEM: &str = "/sys/devices/system/cpu";
/// More processors than masks here have room for.
const MAX_CPUS: usize = 1024;

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cpu {
    number: usize,
    /// Package and core; processors that share both are threads of one core.
    core: (i64, i64),
    /// How fast its kind is, the fastest 1024; the same for all where kinds do not differ.
    capacity: u32,
}

/// Processors to compute on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// Threads to compute with: one a core.
    pub n_threads: usize,
    /// The processors of the fast kind, if there is a slow one; otherwise empty: all may be used.
    pub cpus: Vec<usize>,
}

impl Cores {
    /// What this machine has, as far as this process may use it.
    pub fn detect() -> Self {
        let n = std::thread::available_parallelism().map_or(1, usize::from);
        let allowed = affinity().unwrap_or_else(|| (0..n).collect());
        let cores = Self::among(&read(Path::new(SYSTEM), &allowed));
        // quotas of containers count, too
        Self { n_threads: cores.n_threads.clamp(1, n), ..cores }
    }

    /// The choice among `cpus`.
    fn among(cpus: &[Cpu]) -> Self {
        let most = cpus.iter().map(|c| c.capacity).max().unwrap_or(0);
        // kinds differ by far more than half between a phone's slow cores and the others, by less between those
        let is_fast = |c: &&Cpu| c.capacity > most / 2;
        let mut cores: Vec<(i64, i64)> = cpus.iter().filter(is_fast).map(|c| c.core).collect();
        cores.sort_unstable();
        cores.dedup();
        let fast: Vec<usize> = cpus.iter().filter(is_fast).map(|c| c.number).collect();
        let cpus = if fast.len() == cpus.len() { Vec::new() } else { fast };
        Self { n_threads: cores.len(), cpus }
    }
}

/// What `system` tells of processors `numbers`. Where it tells nothing, each is a core of its own.
fn read(system: &Path, numbers: &[usize]) -> Vec<Cpu> {
    let number = |path: String| -> Option<i64> {
        std::fs::read_to_string(system.join(path)).ok()?.trim().parse().ok()
    };
    let cpu = |i: usize| Cpu {
        number: i,
        core: (
            number(format!("cpu{i}/topology/physical_package_id")).unwrap_or(0),
            number(format!("cpu{i}/topology/core_id")).unwrap_or(i as i64),
        ),
        capacity: number(format!("cpu{i}/cpu_capacity")).and_then(|c| u32::try_from(c).ok()).unwrap_or(1024),
    };
    numbers.iter().map(|i| cpu(*i)).collect()
}

/// Reads processors from a list such as `0-3,6`, or a mask in hexadecimal such as `0x4f`.
/// # Errors `InvalidArgument` for anything else, and for an empty one.
pub fn parse_cpus(text: &str) -> Result<Vec<usize>> {
    let bad = || {
        let message = format!("processors: expected a list (0-3,6) or a mask (0x4f), found {text:?}");
        Error::new(ErrorKind::InvalidArgument, message)
    };
    let mut cpus = Vec::new();
    if let Some(digits) = text.strip_prefix("0x") {
        for (i, digit) in digits.chars().rev().enumerate() {
            let digit = digit.to_digit(16).ok_or_else(bad)?;
            cpus.extend((0..4).filter(|b| digit >> b & 1 == 1).map(|b| 4 * i + b));
        }
    } else {
        for part in text.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse().map_err(|_| bad());
            let (from, to): (usize, usize) = (number(from)?, number(to)?);
            if to >= MAX_CPUS {
                return Err(bad());
            }
            cpus.extend(from..=to);
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    match cpus.last() {
        Some(last) if *last < MAX_CPUS => Ok(cpus),
        _ => Err(bad()),
    }
}

/// Lets the calling thread, and threads that it starts from now on, run on these processors alone.
/// # Errors `InvalidArgument` if the system has none of them, `Unsupported` where there is no way to say so.
pub fn pin(cpus: &[usize]) -> Result<()> {
    system::pin(cpus)
}

/// The processors that the calling thread may run on, where the system tells.
fn affinity() -> Option<Vec<usize>> {
    system::affinity()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use super::{Error, ErrorKind, MAX_CPUS, Result};
    use std::ffi::c_int;

    /// The kernel's mask of processors.
    type Mask = [usize; MAX_CPUS / usize::BITS as usize];

    unsafe extern "C" {
        fn sched_setaffinity(pid: c_int, n_bytes: usize, mask: *const Mask) -> c_int;
        fn sched_getaffinity(pid: c_int, n_bytes: usize, mask: *mut Mask) -> c_int;
    }

    const BITS: usize = usize::BITS as usize;

    pub fn pin(cpus: &[usize]) -> Result<()> {
        let mut mask: Mask = [0; MAX_CPUS / BITS];
        for cpu in cpus.iter().filter(|c| **c < MAX_CPUS) {
            mask[cpu / BITS] |= 1 << (cpu % BITS);
        }
        // SAFETY: 0 is the calling thread; the mask has as many bytes as is said.
        if unsafe { sched_setaffinity(0, size_of::<Mask>(), &raw const mask) } == 0 {
            return Ok(());
        }
        let message = format!("processors {cpus:?}: expected some that this process may use");
        Err(Error::new(ErrorKind::InvalidArgument, message).because(std::io::Error::last_os_error()))
    }

    pub fn affinity() -> Option<Vec<usize>> {
        let mut mask: Mask = [0; MAX_CPUS / BITS];
        // SAFETY: as above.
        if unsafe { sched_getaffinity(0, size_of::<Mask>(), &raw mut mask) } < 0 {
            return None;
        }
        let cpus: Vec<usize> = (0..MAX_CPUS).filter(|c| mask[c / BITS] >> (c % BITS) & 1 == 1).collect();
        (!cpus.is_empty()).then_some(cpus)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use super::{Error, ErrorKind, Result};

    pub fn pin(_: &[usize]) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "choosing processors: not on this system"))
    }

    pub fn affinity() -> Option<Vec<usize>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's `/sys`: package, core and capacity of each processor.
    fn machine(name: &str, cpus: &[(i64, i64, Option<u32>)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("truing-cores-{}-{name}", std::process::id()));
        for (i, (package, core, capacity)) in cpus.iter().enumerate() {
            let cpu = root.join(format!("cpu{i}"));
            std::fs::create_dir_all(cpu.join("topology")).expect("a folder");
            std::fs::write(cpu.join("topology/physical_package_id"), format!("{package}\n"))
                .expect("written");
            std::fs::write(cpu.join("topology/core_id"), format!("{core}\n")).expect("written");
            if let Some(capacity) = capacity {
                std::fs::write(cpu.join("cpu_capacity"), format!("{capacity}\n")).expect("written");
            }
        }
        root
    }

    fn chosen(name: &str, cpus: &[(i64, i64, Option<u32>)], allowed: &[usize]) -> Cores {
        let root = machine(name, cpus);
        let cores = Cores::among(&read(&root, allowed));
        std::fs::remove_dir_all(root).expect("removed");
        cores
    }

    #[test]
    fn threads_of_one_core_count_once() {
        let eight: Vec<_> = (0..8).map(|i| (0, i % 4, None)).collect();
        assert_eq!(chosen("smt", &eight, &(0..8).collect::<Vec<_>>()), Cores { n_threads: 4, cpus: vec![] });
        assert_eq!(chosen("some", &eight, &[0, 1, 4]), Cores { n_threads: 2, cpus: vec![] });
        let packages = [(0, 0, None), (1, 0, None)];
        assert_eq!(chosen("packages", &packages, &[0, 1]).n_threads, 2, "cores of two packages");
    }

    #[test]
    fn slow_cores_are_left_out_and_middle_ones_are_not() {
        let phone: Vec<_> = [379, 379, 379, 379, 870, 870, 870, 1024]
            .into_iter()
            .enumerate()
            .map(|(i, c)| (0, i as i64, Some(c)))
            .collect();
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(chosen("phone", &phone, &all), Cores { n_threads: 4, cpus: vec![4, 5, 6, 7] });
        assert_eq!(
            chosen("slow", &phone, &[0, 1]),
            Cores { n_threads: 2, cpus: vec![] },
            "nothing else allowed"
        );
    }

    #[test]
    fn a_machine_that_tells_nothing_has_a_core_a_processor() {
        let cores = Cores::among(&read(Path::new("/no/such/folder"), &[0, 1, 2]));
        assert_eq!(cores, Cores { n_threads: 3, cpus: vec![] });
        assert!(Cores::detect().n_threads >= 1);
    }

    #[test]
    fn lists_and_masks_are_read() {
        assert_eq!(parse_cpus("0-2,6, 4").unwrap(), [0, 1, 2, 4, 6]);
        assert_eq!(parse_cpus("0x4f").unwrap(), [0, 1, 2, 3, 6]);
        for bad in ["", "a", "0x", "0xg", "3-", "5-2", "4000", "0-99999999999", "0x0", "-1"] {
            assert!(parse_cpus(bad).is_err(), "{bad:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_stays_where_it_is_put() {
        let all = affinity().expect("Linux tells");
        let one = vec![*all.last().expect("some processor")];
        let seen = std::thread::spawn({
            let one = one.clone();
            move || {
                pin(&one).expect("allowed");
                affinity()
            }
        });
        assert_eq!(seen.join().expect("no panic"), Some(one));
        assert_eq!(affinity(), Some(all), "this thread was not asked");
        assert!(pin(&[MAX_CPUS - 1]).is_err(), "no such processor here");
    }
}
