//! Links the core into a program without std, so that the linker proves what
//! `#![no_std]` in one crate alone does not: that nothing below it needs std
//! either. A second panic handler or allocator would be an error here.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use base_ha_core::config::Config;
use base_ha_core::ids::{NodeId, Url};
use core::alloc::{GlobalAlloc, Layout};

/// Hands out nothing: the proof is in the linking, the program is never run.
struct Nothing;

// SAFETY: null means "out of memory", which an allocator may always answer.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _layout: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _pointer: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Nothing = Nothing;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The precompiled `alloc` names it; nothing unwinds here.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// The entry point: reaches into the core so that the linker has to keep it.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let legal = NodeId::new("base-0")
        .map(|id| Config::new(id, Url::new("http://127.0.0.1:8090"), Vec::new()).validate().is_ok())
        .unwrap_or(false);
    core::hint::black_box(legal);
    loop {}
}
