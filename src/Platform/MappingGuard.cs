using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// Lets the process outlive a peer that takes the file from behind a mapping. An access beyond the end of a file is a signal (SIGBUS) that
/// ends a process; here, for an access to a mapping that was entered, zeros take the place of the whole mapping, the access goes on, and
/// whoever entered it is told. Every other SIGBUS goes to the handler that was there before, the runtime's. Safe from any thread.
/// </summary>
/// <remarks>
/// The runtime's code cannot run in a signal handler, so the handler is machine code of its own: <see cref="Code"/>. It reads a table of
/// mappings, calls the kernel, and wakes a thread, which tells. It takes no lock and uses no memory but the table and its stack. What an
/// access needs is held while it is under way, so an entry that matches the address does not change under the handler.
/// </remarks>
internal static unsafe class MappingGuard
{
    // More than the kernel lets a process map (vm.max_map_count) unless it was told otherwise. Room that is not used costs no memory.
    private const int Entries = 1 << 20;

    private static readonly Lock Gate = new();
    private static readonly Stack<int> Free = new();
    private static readonly Dictionary<int, Action> Owners = [];
    private static readonly Control* Shared = Install();

    /// <summary>Whether mappings can be guarded: on x86-64, where the runtime has a handler to go on to.</summary>
    internal static bool IsSupported => Shared is not null;

    /// <summary>
    /// The handler for x86-64, called as <c>handler(signal, siginfo, context)</c> in rdi, rsi, rdx. It may use rax, rcx, r8 to r11, as any
    /// function may. The eight bytes at <see cref="ControlAt"/> become the address of the <see cref="Control"/>.
    /// </summary>
    internal static ReadOnlySpan<byte> Code =>
    [
        0x49, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0,       //         movabs r8, 0                     the control block
        0x83, 0x7e, 0x08, 0x02,                   //         cmp dword ptr [rsi+8], 2         si_code is BUS_ADRERR: no page is there
        0x0f, 0x85, 0x89, 0x00, 0x00, 0x00,       //         jne chain                        a broken memory chip, say, is not ours
        0x48, 0x8b, 0x46, 0x10,                   // again:  mov rax, [rsi+16]                si_addr
        0x49, 0x8b, 0x48, 0x10,                   //         mov rcx, [r8+16]                 Count
        0x4d, 0x8b, 0x48, 0x08,                   //         mov r9, [r8+8]                   First
        0x48, 0x83, 0xe9, 0x01,                   // next:   sub rcx, 1
        0x72, 0x77,                               //         jb chain                         none is left
        0x4d, 0x8b, 0x59, 0x08,                   //         mov r11, [r9+8]                  Length, before Start
        0x49, 0x89, 0xc2,                         //         mov r10, rax
        0x4d, 0x2b, 0x11,                         //         sub r10, [r9]                    Start
        0x4d, 0x39, 0xda,                         //         cmp r10, r11
        0x72, 0x06,                               //         jb found                         the address lies in it
        0x49, 0x83, 0xc1, 0x20,                   //         add r9, 32
        0xeb, 0xe5,                               //         jmp next
        0x4d, 0x3b, 0x59, 0x08,                   // found:  cmp r11, [r9+8]                  changed between Length and Start:
        0x75, 0xd3,                               //         jne again                        another mapping's entry
        0x57,                                     //         push rdi
        0x56,                                     //         push rsi
        0x52,                                     //         push rdx
        0x41, 0x50,                               //         push r8
        0x41, 0x51,                               //         push r9
        0x49, 0x8b, 0x39,                         //         mov rdi, [r9]                    mmap: Start,
        0x4c, 0x89, 0xde,                         //         mov rsi, r11                     Length,
        0xba, 0x03, 0x00, 0x00, 0x00,             //         mov edx, 3                       PROT_READ | PROT_WRITE,
        0x41, 0xba, 0x32, 0x40, 0x00, 0x00,       //         mov r10d, 0x4032                 MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE,
        0x49, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, //         mov r8, -1                       no file,
        0x45, 0x31, 0xc9,                         //         xor r9d, r9d                     no offset
        0xb8, 0x09, 0x00, 0x00, 0x00,             //         mov eax, 9                       SYS_mmap
        0x0f, 0x05,                               //         syscall
        0x41, 0x59,                               //         pop r9
        0x41, 0x58,                               //         pop r8
        0x49, 0x3b, 0x01,                         //         cmp rax, [r9]
        0x75, 0x27,                               //         jne failed                       no memory: as if it were not ours
        0x41, 0xc7, 0x41, 0x10, 0x01, 0, 0, 0,    //         mov dword ptr [r9+16], 1         Lost
        0xf0, 0x41, 0xff, 0x40, 0x18,             //         lock inc dword ptr [r8+24]       Losses
        0x49, 0x8d, 0x78, 0x18,                   //         lea rdi, [r8+24]                 futex: Losses,
        0xbe, 0x81, 0x00, 0x00, 0x00,             //         mov esi, 129                     FUTEX_WAKE | FUTEX_PRIVATE_FLAG,
        0xba, 0x01, 0x00, 0x00, 0x00,             //         mov edx, 1                       one thread
        0xb8, 0xca, 0x00, 0x00, 0x00,             //         mov eax, 202                     SYS_futex
        0x0f, 0x05,                               //         syscall
        0x48, 0x83, 0xc4, 0x18,                   //         add rsp, 24                      the three arguments
        0xc3,                                     //         ret                              the access is made again
        0x5a,                                     // failed: pop rdx
        0x5e,                                     //         pop rsi
        0x5f,                                     //         pop rdi
        0x41, 0xff, 0x20,                         // chain:  jmp [r8]                         Next, with the same arguments
    ];

    /// <summary>Where in <see cref="Code"/> the address of the control block goes.</summary>
    internal const int ControlAt = 2;

    /// <summary>Enters a mapping. It is taken out before it is unmapped.</summary>
    /// <param name="address">Its first byte.</param>
    /// <param name="length">Its length, as mapped.</param>
    /// <param name="lost">Called once, on a thread of the guard, after zeros took its place; has to be short.</param>
    /// <param name="number">The number of its entry; -1 where there is no guard.</param>
    /// <returns>False when the table is full.</returns>
    internal static bool TryAdd(nint address, nuint length, Action lost, out int number)
    {
        number = -1;
        if (!IsSupported)
            return true;
        lock (Gate)
        {
            if (!Free.TryPop(out number))
            {
                if (Shared->Count == Entries)
                    return false;
                number = (int)Shared->Count;
            }

            Owners.Add(number, lost);
            // SAFETY: the number is below that of the entries, which are there for good. The handler looks at Length first: it is 0 until
            // the rest is there.
            var entry = Shared->First + number;
            entry->Lost = 0;
            entry->Start = address;
            Volatile.Write(ref entry->Length, length);
            if (number == Shared->Count)
                Volatile.Write(ref Shared->Count, (nint)number + 1);
            return true;
        }
    }

    /// <summary>Takes a mapping out, when no access to it is under way any more.</summary>
    /// <param name="number">What <see cref="TryAdd"/> gave.</param>
    internal static void Remove(int number)
    {
        lock (Gate)
        {
            // SAFETY: as in TryAdd.
            Volatile.Write(ref Shared->First[number].Length, 0);
            Owners.Remove(number);
            Free.Push(number);
        }
    }

    private static Control* Install()
    {
        // Laid out and numbered for this one; other machines warn of memory that can shrink, and go without.
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64)
            return null;
        SignalAction action;
        // SAFETY: the structure has the C library's layout, which a test compares.
        if (Libc.sigaction(Libc.SIGBUS, null, &action) != 0 || action.Handler is 0 or 1 || (action.Flags & Libc.SA_SIGINFO) == 0)
            return null;
        // Never unmapped: a signal may come at any time.
        var control = (Control*)Allocate((nuint)sizeof(Control));
        var first = (Entry*)Allocate((nuint)Entries * (nuint)sizeof(Entry));
        var code = (byte*)Allocate((nuint)Code.Length);
        if (control is null || first is null || code is null)
            return null;
        control->Next = action.Handler;
        control->First = first;
        // SAFETY: the mapping is as long as the code, which fits into a page. It is written first, and never again once it can be run.
        Code.CopyTo(new Span<byte>(code, Code.Length));
        *(Control**)(code + ControlAt) = control;
        if (Libc.mprotect((nint)code, (nuint)Code.Length, Libc.PROT_READ | Libc.PROT_EXEC) != 0)
            return null;
        // Before a signal can come, so that each is told of.
        if (ServiceThread.TryStart("mapping guard", () => Watch(control)) is null)
            return null;
        // The rest as the runtime has it (its stack for signals, what is blocked), since its handler runs in this one's place.
        action.Handler = (nint)code;
        if (Libc.sigaction(Libc.SIGBUS, &action, null) != 0)
            return null;
        return control;
    }

    private static void* Allocate(nuint size)
    {
        var address = Libc.mmap_anonymous(0, size, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, 0);
        return address == -1 ? null : (void*)address;
    }

    private static void Watch(Control* control)
    {
        var seen = 0u;
        while (true)
        {
            // SAFETY: the word is there for good. Returns at once when it is another one than was seen.
            _ = Libc.futex(Libc.SYS_futex, &control->Losses, Libc.FUTEX_WAIT_PRIVATE, (nint)seen, null);
            seen = Volatile.Read(ref control->Losses);
            for (var number = 0; number < Volatile.Read(ref control->Count); number++)
            {
                if (Volatile.Read(ref control->First[number].Lost) != 0)
                    Tell(control, number);
            }
        }
    }

    private static void Tell(Control* control, int number)
    {
        Action? lost;
        lock (Gate)
        {
            // It may have been taken out, or be another one by now.
            if (control->First[number].Lost == 0)
                return;
            control->First[number].Lost = 0;
            // Threads that met it at once each replaced it; it is told of once.
            Owners.Remove(number, out lost);
        }

        // The thread goes on, for the mappings of others.
        if (lost is not null)
            ServiceThread.Guard("mapping guard", lost);
    }

    /// <summary>What the handler knows; offsets as in <see cref="Code"/>.</summary>
    [StructLayout(LayoutKind.Explicit)]
    internal struct Control
    {
        /// <summary>The handler that was there before.</summary>
        [FieldOffset(0)]
        public nint Next;

        /// <summary>The table.</summary>
        [FieldOffset(8)]
        public Entry* First;

        /// <summary>How many entries of it were ever used.</summary>
        [FieldOffset(16)]
        public nint Count;

        /// <summary>How many mappings were lost; the word that the watching thread sleeps on.</summary>
        [FieldOffset(24)]
        public uint Losses;
    }

    /// <summary>One mapping; offsets and size as in <see cref="Code"/>.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 32)]
    internal struct Entry
    {
        /// <summary>Its first byte.</summary>
        [FieldOffset(0)]
        public nint Start;

        /// <summary>Its length; 0 for none.</summary>
        [FieldOffset(8)]
        public nuint Length;

        /// <summary>1 once zeros took its place.</summary>
        [FieldOffset(16)]
        public uint Lost;
    }
}
