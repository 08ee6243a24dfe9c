using System.Runtime.CompilerServices;

namespace Virtbus.Platform.IoUring;

/// <summary>
/// An io_uring: requests to files are written into a ring that the kernel reads, many are started by one call, and what is done stands in
/// another ring. Used by one thread at a time, which may change while nothing is in flight. No call allocates but those that register.
/// </summary>
/// <remarks>
/// A host may forbid it (<see cref="TryCreate"/>): an older kernel, the seccomp filter of a container, the sysctl kernel.io_uring_disabled.
/// Who uses it has another way for that.
/// </remarks>
public sealed unsafe class IoRing : IDisposable
{
    private const uint SETUP_CLAMP = 1 << 4;
    private const uint SETUP_SUBMIT_ALL = 1 << 7;
    private const uint SETUP_COOP_TASKRUN = 1 << 8;
    private const uint SETUP_TASKRUN_FLAG = 1 << 9;
    private const uint FEAT_SINGLE_MMAP = 1;
    private const uint FEAT_NODROP = 2;
    private const uint ENTER_GETEVENTS = 1;
    private const uint SQ_CQ_OVERFLOW = 1 << 1;
    private const uint SQ_TASKRUN = 1 << 2;
    private const uint CQ_EVENTFD_DISABLED = 1;
    private const byte SQE_FIXED_FILE = 1;
    private const uint FSYNC_DATASYNC = 1;
    private const int REGISTER_FILES = 2;
    private const int UNREGISTER_FILES = 3;
    private const int REGISTER_EVENTFD = 4;
    private const int REGISTER_PROBE = 8;
    private const int REGISTER_SYNC_CANCEL = 24;
    private const uint CANCEL_ALL = 1;
    private const uint CANCEL_ANY = 4;
    private const ulong SubmissionEntriesOffset = 0x10000000;
    private const int MaxOperations = 64;

    private readonly FileDescriptor _ring;
    private readonly int _number;
    private readonly Mapping _rings;
    private readonly Mapping _entryMemory;
    private readonly SubmissionEntry* _entries;
    private readonly CompletionEntry* _completions;
    private readonly uint* _submissionHead;
    private readonly uint* _submissionTail;
    private readonly uint* _submissionFlags;
    private readonly uint* _completionHead;
    private readonly uint* _completionTail;
    private readonly uint* _completionFlags;
    private readonly uint _submissionMask;
    private readonly uint _completionMask;
    private readonly ulong _operations;
    private uint _tail;
    private bool _disposed;

    private IoRing(FileDescriptor ring, Mapping rings, Mapping entryMemory, IoRingParameters parameters)
    {
        _ring = ring;
        _number = ring.Number;
        _rings = rings;
        _entryMemory = entryMemory;
        Capacity = (int)parameters.SubmissionEntries;
        // SAFETY: the kernel gave the offsets for the two mappings, which live as long as this object.
        var start = (byte*)rings.Address;
        _entries = (SubmissionEntry*)entryMemory.Address;
        _submissionHead = (uint*)(start + parameters.Submission.Head);
        _submissionTail = (uint*)(start + parameters.Submission.Tail);
        _submissionFlags = (uint*)(start + parameters.Submission.Flags);
        _submissionMask = *(uint*)(start + parameters.Submission.Mask);
        _completionHead = (uint*)(start + parameters.Completion.Head);
        _completionTail = (uint*)(start + parameters.Completion.Tail);
        _completionMask = *(uint*)(start + parameters.Completion.Mask);
        _completions = (CompletionEntry*)(start + parameters.Completion.Entries);
        // Before Linux 5.8 there is none, and all is signalled.
        _completionFlags = parameters.Completion.Flags == 0 ? null : (uint*)(start + parameters.Completion.Flags);
        var array = (uint*)(start + parameters.Submission.Array);
        for (var i = 0u; i < parameters.SubmissionEntries; i++)
            array[i] = i;
        _tail = *_submissionTail;
        _operations = Probe();
    }

    /// <summary>For tests: what the host answers to this thread in place of the kernel; None when the kernel is asked.</summary>
    [field: ThreadStatic]
    internal static Errno Refuses { get; set; }

    /// <summary>How many requests can be in flight.</summary>
    public int Capacity { get; }

    /// <summary>How many were started and have not been taken back.</summary>
    public int InFlight { get; private set; }

    /// <summary>Whether something can be taken back without a call of the kernel.</summary>
    public bool HasCompletion => *_completionHead != Volatile.Read(ref *_completionTail);

    /// <summary>How many were prepared and not started.</summary>
    public int Prepared => (int)(_tail - Volatile.Read(ref *_submissionHead));

    /// <summary>How many calls of the kernel started requests or waited for them.</summary>
    internal long Calls { get; private set; }

    /// <summary>Makes a ring.</summary>
    /// <param name="entries">The most requests in flight; made a power of two, and no more than the kernel takes.</param>
    /// <param name="error">
    /// Why the answer is null: ENOSYS for a kernel without it, EPERM when a filter or a sysctl forbids it, ENOMEM and EMFILE.
    /// </param>
    /// <returns>The ring, or null.</returns>
    public static IoRing? TryCreate(int entries, out Errno error)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(entries, nameof(entries));
        error = Refuses;
        if (error != Errno.None)
            return null;
        // The first set spares interrupts of the thread by completions, from Linux 5.19 on.
        if (TrySetUp(entries, SETUP_CLAMP | SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN | SETUP_TASKRUN_FLAG, out error) is { } ring)
            return ring;
        return error == Errno.EINVAL ? TrySetUp(entries, SETUP_CLAMP, out error) : null;
    }

    /// <summary>Why a host without io_uring has none, in words for a log.</summary>
    /// <param name="error">What <see cref="TryCreate"/> answered.</param>
    /// <returns>A sentence.</returns>
    public static string Explain(Errno error) => error switch
    {
        Errno.ENOSYS => "This kernel has no io_uring (ENOSYS), or a seccomp filter says so.",
        Errno.EPERM or Errno.EACCES =>
            $"The host forbids io_uring ({error}): by a seccomp filter, as containers have, or by the sysctl kernel.io_uring_disabled.",
        Errno.ENOMEM => "There is no memory for an io_uring (ENOMEM): raise the limit of locked memory (ulimit -l).",
        Errno.EMFILE => "There is no descriptor left for an io_uring (EMFILE): raise the limit (ulimit -n).",
        _ => $"An io_uring cannot be made: {error}.",
    };

    /// <summary>Whether the kernel knows an operation.</summary>
    /// <param name="operation">The operation.</param>
    public bool Supports(IoRingOperation operation) => (_operations & (1UL << (int)operation)) != 0;

    /// <summary>Has the kernel signal an eventfd for what is done.</summary>
    /// <param name="signal">The eventfd; open as long as the ring.</param>
    /// <returns>None, or the errno.</returns>
    public Errno RegisterSignal(EventFd signal)
    {
        var number = signal.Descriptor.Number;
        // SAFETY: the number is a local that outlives the call.
        return Register(REGISTER_EVENTFD, &number, 1);
    }

    /// <summary>
    /// Switches the signals of <see cref="RegisterSignal"/>, on at first. Who looks by himself spares them; before he waits for one he switches them
    /// on and looks once more.
    /// </summary>
    /// <param name="signals">Whether what is done is signalled.</param>
    public void SetSignals(bool signals)
    {
        if (_completionFlags is null)
            return;
        // SAFETY: the field is in the mapped ring; this side alone writes it.
        *_completionFlags = signals ? 0 : CQ_EVENTFD_DISABLED;
        if (signals)
            Interlocked.MemoryBarrier();
    }

    /// <summary>Gives the kernel the files that requests name by index, so that it does not look each up for each request.</summary>
    /// <param name="files">The files; the kernel keeps them open until the ring is disposed.</param>
    /// <returns>None, or the errno.</returns>
    public Errno RegisterFiles(params ReadOnlySpan<FileDescriptor> files)
    {
        Span<int> numbers = stackalloc int[files.Length];
        for (var i = 0; i < files.Length; i++)
            numbers[i] = files[i].Number;
        // SAFETY: the numbers are pinned for the time of the call, which copies them.
        fixed (int* list = numbers)
            return Register(REGISTER_FILES, list, files.Length);
    }

    /// <summary>Prepares a transfer between a file and a list of runs.</summary>
    /// <param name="write">Whether to write the runs, and not to fill them.</param>
    /// <param name="file">Index of a registered file.</param>
    /// <param name="runs">The runs, at most 1024; list and memory stay until the request is done.</param>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="durable">Whether a write is done only when it is durable.</param>
    /// <param name="token">What its end is named.</param>
    /// <returns>False when there is no room: start what is prepared, or take back what is done.</returns>
    public bool TryPrepareTransfer(bool write, int file, IoVectorList runs, long offset, bool durable, ulong token)
    {
        // One run needs no list to be read.
        if (runs.Count == 1)
            return TryPrepareTransfer(write, file, runs.AsSpan()[0], offset, durable, token);
        var entry = Next(write ? IoRingOperation.WriteVectors : IoRingOperation.ReadVectors, file, token);
        if (entry is null)
            return false;
        entry->Address = (ulong)runs.First;
        entry->Length = (uint)runs.Count;
        entry->Offset = (ulong)offset;
        entry->OperationFlags = durable ? (uint)Libc.RWF_DSYNC : 0;
        return true;
    }

    /// <summary>Prepares a transfer between a file and one run.</summary>
    /// <param name="write">Whether to write the run, and not to fill it.</param>
    /// <param name="file">Index of a registered file.</param>
    /// <param name="run">The memory; it stays until the request is done.</param>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="durable">Whether a write is done only when it is durable.</param>
    /// <param name="token">What its end is named.</param>
    /// <returns>False when there is no room.</returns>
    public bool TryPrepareTransfer(bool write, int file, IoVector run, long offset, bool durable, ulong token)
    {
        var entry = Next(write ? IoRingOperation.Write : IoRingOperation.Read, file, token);
        if (entry is null)
            return false;
        entry->Address = (ulong)run.Address;
        entry->Length = (uint)Math.Min(run.Length, uint.MaxValue);
        entry->Offset = (ulong)offset;
        entry->OperationFlags = durable ? (uint)Libc.RWF_DSYNC : 0;
        return true;
    }

    /// <summary>Prepares making durable what was written (fdatasync). It is not ordered behind writes that are in flight.</summary>
    /// <param name="file">Index of a registered file.</param>
    /// <param name="token">What its end is named.</param>
    /// <returns>False when there is no room.</returns>
    public bool TryPrepareSync(int file, ulong token)
    {
        var entry = Next(IoRingOperation.Sync, file, token);
        if (entry is null)
            return false;
        entry->OperationFlags = FSYNC_DATASYNC;
        return true;
    }

    /// <summary>Prepares giving room of a file back, or making zeros (fallocate).</summary>
    /// <param name="file">Index of a registered file.</param>
    /// <param name="what">Which of them.</param>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="length">Length in bytes, above 0.</param>
    /// <param name="token">What its end is named.</param>
    /// <returns>False when there is no room.</returns>
    public bool TryPrepareAllocate(int file, FileAllocation what, long offset, long length, ulong token)
    {
        var entry = Next(IoRingOperation.Allocate, file, token);
        if (entry is null)
            return false;
        entry->Offset = (ulong)offset;
        entry->Address = (ulong)length;
        entry->Length = (uint)what;
        return true;
    }

    /// <summary>Starts what is prepared, by one call, and waits if it is told to.</summary>
    /// <param name="waitFor">How many requests have to be done before it returns; 0 for none. A signal to the thread ends the wait too.</param>
    /// <returns>
    /// None; EAGAIN, EBUSY or ENOMEM when the kernel has no room at this moment and some are still prepared: take back what is done and call again.
    /// </returns>
    public Errno Submit(int waitFor = 0)
    {
        var prepared = Prepared;
        if (prepared == 0 && waitFor == 0)
            return Errno.None;
        // The kernel reads the tail in the call below, and the entries up to it.
        Volatile.Write(ref *_submissionTail, _tail);
        return Enter(prepared, waitFor);
    }

    /// <summary>Takes back a request that is done.</summary>
    /// <param name="completion">How it ended.</param>
    /// <returns>False when none is done now.</returns>
    public bool TryReap(out IoRingCompletion completion)
    {
        var head = *_completionHead;
        if (head == Volatile.Read(ref *_completionTail))
        {
            completion = default;
            // What is done may wait for this thread to enter the kernel, to be put into the ring.
            if (InFlight == 0 || (Volatile.Read(ref *_submissionFlags) & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) == 0)
                return false;
            Enter(0, 0, ENTER_GETEVENTS);
            if (head == Volatile.Read(ref *_completionTail))
                return false;
        }

        // SAFETY: the entry at the head was written by the kernel before it moved the tail, and stays until the head is moved.
        var entry = _completions + (head & _completionMask);
        completion = new IoRingCompletion(entry->UserData, entry->Result);
        Volatile.Write(ref *_completionHead, head + 1);
        InFlight--;
        return true;
    }

    /// <summary>Asks the kernel to cancel what is in flight. What a device has already begun goes on; each comes back in any case.</summary>
    public void Cancel()
    {
        if (InFlight == 0)
            return;
        var argument = new CancelArgument { Flags = CANCEL_ALL | CANCEL_ANY };
        // SAFETY: the argument is a local that outlives the call. A kernel that does not know it (before 6.0) changes nothing: then all is waited for.
        Register(REGISTER_SYNC_CANCEL, &argument, 1);
    }

    /// <summary>
    /// Cancels what is in flight, waits for it, since the kernel may still be writing to the memory of it, and closes the ring. What was
    /// prepared and not started is dropped.
    /// </summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Cancel();
        while (InFlight > 0)
        {
            if (!TryReap(out _))
                Enter(0, 1);
        }

        // The kernel takes a ring down when it likes; until then nobody could unmount the file system of a file that it holds.
        Register(UNREGISTER_FILES, null, 0);
        _ring.DangerousRelease();
        _rings.Dispose();
        _entryMemory.Dispose();
        _ring.Dispose();
    }

    private static IoRing? TrySetUp(int entries, uint flags, out Errno error)
    {
        var parameters = new IoRingParameters { Flags = flags };
        // SAFETY: the parameters are a local of the size that the kernel reads and writes.
        var number = (int)Libc.io_uring_setup(Libc.SYS_io_uring_setup, entries, &parameters);
        error = number < 0 ? Libc.LastError : Errno.None;
        if (number < 0)
            return null;
        var ring = new FileDescriptor(number);
        // Before these (Linux 5.5) the rings are mapped in two pieces and completions can get lost.
        if ((parameters.Features & (FEAT_SINGLE_MMAP | FEAT_NODROP)) != (FEAT_SINGLE_MMAP | FEAT_NODROP))
        {
            ring.Dispose();
            error = Errno.ENOSYS;
            return null;
        }

        var length = Math.Max(
            parameters.Submission.Array + (parameters.SubmissionEntries * sizeof(uint)),
            parameters.Completion.Entries + (parameters.CompletionEntries * (uint)sizeof(CompletionEntry)));
        var rings = Mapping.TryMap(ring, 0, length, writable: true, out error);
        var entryMemory = rings is null
            ? null
            : Mapping.TryMap(ring, SubmissionEntriesOffset, parameters.SubmissionEntries * (uint)sizeof(SubmissionEntry), writable: true, out error);
        if (entryMemory is null)
        {
            rings?.Dispose();
            ring.Dispose();
            return null;
        }

        // Held by number for every call; given back by Dispose.
        var held = false;
        ring.DangerousAddRef(ref held);
        return new IoRing(ring, rings!, entryMemory, parameters);
    }

    private ulong Probe()
    {
        var buffer = stackalloc byte[ProbeEntry.HeaderSize + (MaxOperations * sizeof(ProbeEntry))];
        Unsafe.InitBlockUnaligned(buffer, 0, (uint)(ProbeEntry.HeaderSize + (MaxOperations * sizeof(ProbeEntry))));
        // SAFETY: the buffer has room for the number of entries that the call names.
        if (Register(REGISTER_PROBE, buffer, MaxOperations) != Errno.None)
            return 0;
        var known = 0UL;
        var entries = (ProbeEntry*)(buffer + ProbeEntry.HeaderSize);
        for (var i = 0; i < MaxOperations; i++)
        {
            if ((entries[i].Flags & ProbeEntry.Supported) != 0)
                known |= 1UL << entries[i].Opcode;
        }

        return known;
    }

    private SubmissionEntry* Next(IoRingOperation operation, int file, ulong token)
    {
        if (InFlight + Prepared >= Capacity)
            return null;
        // SAFETY: the mask keeps the index within the mapped entries; the kernel is done with this one, since its head has passed it.
        var entry = _entries + (_tail & _submissionMask);
        *entry = default;
        entry->Opcode = (byte)operation;
        entry->Flags = SQE_FIXED_FILE;
        entry->Fd = file;
        entry->UserData = token;
        _tail++;
        return entry;
    }

    private Errno Enter(int submit, int waitFor, uint flags = 0)
    {
        while (true)
        {
            if (waitFor > 0)
                flags |= ENTER_GETEVENTS;
            Calls++;
            // SAFETY: no pointer is passed; the descriptor is held open by this object.
            var taken = Libc.io_uring_enter(Libc.SYS_io_uring_enter, _number, submit, waitFor, (nint)flags, null, 0);
            if (taken >= 0)
            {
                InFlight += (int)taken;
                return taken < submit ? Errno.EAGAIN : Errno.None;
            }

            // Interrupted before anything was taken: again when there is something to start; else the caller looks what is done.
            if (Libc.LastError is var error && (error != Errno.EINTR || submit == 0))
                return error == Errno.EINTR ? Errno.None : error;
        }
    }

    private Errno Register(int operation, void* argument, int count) =>
        Libc.io_uring_register(Libc.SYS_io_uring_register, _number, operation, argument, count) < 0 ? Libc.LastError : Errno.None;
}
