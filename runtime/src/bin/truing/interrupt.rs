//! Ctrl-C: the first stops the running call, the second ends the program.

use anyhow::Result;
use std::sync::Mutex;
use truing::model::CancelFlag;

/// The flag that Ctrl-C sets; one handler serves all calls of the program.
static CURRENT: Mutex<Option<CancelFlag>> = Mutex::new(None);

/// Lets Ctrl-C set `flag`. When it is set already, the program ends with 130.
pub fn on_ctrl_c(flag: CancelFlag) -> Result<()> {
    let installed = lock().replace(flag).is_some();
    if installed {
        return Ok(());
    }
    Ok(ctrlc::set_handler(|| match lock().as_ref() {
        Some(flag) if !flag.is_cancelled() => flag.cancel(),
        _ => std::process::exit(130),
    })?)
}

fn lock() -> std::sync::MutexGuard<'static, Option<CancelFlag>> {
    CURRENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
