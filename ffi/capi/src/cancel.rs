//! Cancelling a session's call, from any thread.

use crate::handle::{Handle, Kind, Opaque};
use crate::session::{truing_session, with};
use crate::status::truing_status;
use crate::text::{set, wanted};
use truing::model::CancelFlag;

/// Asks the session's running call to stop, within one layer's time; with none running, the next one. From any
/// thread, also from a callback or a signal handler. The call returns TRUING_E_CANCELLED, which uses the request up.
/// The session must not be freed meanwhile; where that cannot be sure, use a truing_cancel.
///
/// # Safety
/// `session` is a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_session_cancel(session: *const truing_session) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            session.cancel.cancel();
            Ok(())
        })
    }
}

/// A way to cancel a session that may outlive it. Const: any number of threads may use it.
pub struct truing_cancel(Opaque);

impl Kind for CancelFlag {
    const NAME: &'static str = "cancel handle";
    const MARK: u64 = 0x7472_7569_6e67_5831;
}

/// Makes a handle that cancels the session's calls. `*out`: to be freed with truing_cancel_free, before or after the
/// session.
///
/// # Safety
/// `session` is a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_cancel_new(
    session: *const truing_session,
    out: *mut *mut truing_cancel,
) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        with(session, |session| {
            set(wanted(out, "out")?, Handle::give(session.cancel.clone()).cast());
            Ok(())
        })
    }
}

/// As truing_session_cancel; does nothing if the session is gone.
///
/// # Safety
/// `cancel` is a cancel handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_cancel_request(cancel: *const truing_cancel) -> truing_status {
    // SAFETY: the caller's promises.
    unsafe {
        Handle::with(cancel.cast::<Handle<CancelFlag>>(), |flag| {
            flag.cancel();
            Ok(())
        })
    }
}

/// Frees a cancel handle; NULL is fine.
///
/// # Safety
/// `cancel` is NULL or a cancel handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truing_cancel_free(cancel: *mut truing_cancel) {
    // SAFETY: the caller's promise.
    unsafe { Handle::<CancelFlag>::free(cancel.cast(), |_| true) };
}
