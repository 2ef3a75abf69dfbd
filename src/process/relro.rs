//! The part of the program that is read-only once it is relocated (RELRO), made so.
//!
//! A dynamic loader does that, and a static program has none: musl's start code relocates it and
//! leaves the pages writable (ldso/dlstart.c, crt/rcrt1.c). They hold what a program jumps by:
//! tables of functions, and pointers to them.

use nix::libc;

/// Makes that part of the program read-only. Where it cannot be found, it stays as it is.
pub fn protect() {
    if cfg!(target_env = "musl") {
        protect_static();
    }
}

fn protect_static() {
    // SAFETY: getauxval reads what the kernel gave the process at its start.
    let (headers, count, page) = unsafe {
        (
            libc::getauxval(libc::AT_PHDR),
            libc::getauxval(libc::AT_PHNUM),
            libc::getauxval(libc::AT_PAGESZ),
        )
    };
    let (Ok(at), Ok(count), Ok(page)) = (
        usize::try_from(headers),
        usize::try_from(count),
        usize::try_from(page),
    ) else {
        return;
    };
    let headers = std::ptr::with_exposed_provenance::<libc::Elf64_Phdr>(at);
    if headers.is_null() || !page.is_power_of_two() {
        return;
    }
    // SAFETY: the kernel says that so many program headers lie there, in the program's own
    // read-only memory, aligned as an ELF file has them (elf(5)).
    let headers = unsafe { std::slice::from_raw_parts(headers, count) };
    let find = |kind| headers.iter().find(|header| header.p_type == kind);
    let (Some(table), Some(relro)) = (find(libc::PT_PHDR), find(libc::PT_GNU_RELRO)) else {
        return;
    };
    let (Ok(table), Ok(start), Ok(size)) = (
        usize::try_from(table.p_vaddr),
        usize::try_from(relro.p_vaddr),
        usize::try_from(relro.p_memsz),
    ) else {
        return;
    };
    // How far from its addresses in the file the program lies.
    let start = at.wrapping_sub(table).wrapping_add(start);
    let (first, end) = (start & !(page - 1), start.wrapping_add(size) & !(page - 1));
    let memory = std::ptr::with_exposed_provenance_mut(first);
    // SAFETY: whole pages that the linker set apart for what nobody writes after the start.
    // A part of a page at the end is left out, as a dynamic loader does.
    unsafe {
        libc::mprotect(memory, end.saturating_sub(first), libc::PROT_READ);
    }
}
