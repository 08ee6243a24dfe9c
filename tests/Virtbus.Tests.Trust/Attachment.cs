using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Trust;

/// <summary>A function of a daemon that a VMM has opened for its guest: it reaches the guest's memory and has interrupts.</summary>
internal sealed class Attachment : IDisposable
{
    public const int Vectors = 1 + NicDriver.Sets;
    private const int Chunk = 64 << 10;
    private readonly EventFd[] _signals;

    /// <param name="path">The function's socket.</param>
    /// <param name="memory">The guest's memory.</param>
    /// <param name="byMessage">Whether the function reaches it by messages.</param>
    /// <param name="vectors">How many vectors it has.</param>
    public Attachment(string path, GuestMemory memory, bool byMessage, int vectors = Vectors)
    {
        _signals = new EventFd[vectors];
        Client = VfioUserClient.Connect(path);
        for (var i = 0; i < vectors; i++)
            _signals[i] = new EventFd();
        // Memory decoding and bus master, as the guest's driver asks for; on another machine the VMM restores that.
        Demand(Client.TryWrite(UserDevice.ConfigRegion, 4, [6, 0], out var fault), fault);
        Demand(Client.TryMapDma(Range(memory), memory.Memory, 0, DmaAccess.ReadWrite, byMessage ? null : memory.File, 0, out fault), fault);
        var set = new VfioIrqSet { Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, Index = UserDevice.MsixIndex, Start = 0, Count = (uint)vectors, EventFds = _signals };
        Demand(Client.TrySetIrqs(set, out fault), fault);
    }

    public VfioUserClient Client { get; }

    public VfioMigrationState State
    {
        get
        {
            Demand(Client.TryGetMigrationState(out var state, out var fault), fault);
            return state;
        }

        set => Demand(Client.TrySetMigrationState(value, out var fault), fault);
    }

    /// <summary>Whether a vector was signalled since this was asked last.</summary>
    public bool TakeSignal(int vector) => _signals[vector].TryRead(out _);

    /// <summary>Waits for a vector.</summary>
    public bool WaitForSignal(int vector) => SpinWait.SpinUntil(() => TakeSignal(vector), UserDevice.Patience);

    /// <summary>Begins to log what the function writes.</summary>
    public void StartLog(GuestMemory memory)
    {
        ulong pageSize = GuestMemory.PageSize;
        Demand(Client.TryStartDmaLogging(ref pageSize, [Range(memory)], out var fault), fault);
        if (pageSize != GuestMemory.PageSize)
            throw new DeviceFailure($"the log has pages of {pageSize} bytes");
    }

    /// <summary>Adds the pages that the function wrote since this was asked last.</summary>
    public void ReportLog(GuestMemory memory, Span<ulong> pages) =>
        Demand(Client.TryReportDmaLogging(Range(memory), GuestMemory.PageSize, pages, out var fault), fault);

    public void StopLog() => Demand(Client.TryStopDmaLogging(out var fault), fault);

    /// <summary>Reads what there is of the function's state now; all of it when it is stopped.</summary>
    public byte[] ReadState()
    {
        var all = new MemoryStream();
        var buffer = new byte[Chunk];
        int count;
        do
        {
            Demand(Client.TryReadMigrationData(buffer, out count, out var fault), fault);
            all.Write(buffer, 0, count);
        }
        while (count == buffer.Length);
        return all.ToArray();
    }

    /// <summary>Writes a function's state, cut anyhow.</summary>
    public void WriteState(ReadOnlySpan<byte> bytes, Random random)
    {
        while (!bytes.IsEmpty)
        {
            var count = random.Next(1, bytes.Length + 1);
            Demand(Client.TryWriteMigrationData(bytes[..count], out var fault), fault);
            bytes = bytes[count..];
        }
    }

    public void Dispose()
    {
        Client.Dispose();
        foreach (var signal in _signals)
            signal.Dispose();
    }

    private static IovaRange Range(GuestMemory memory) => new(UserDevice.MemoryBase, (ulong)memory.Size);

    private static void Demand(bool done, Fault fault)
    {
        if (!done)
            throw new DeviceFailure($"{fault.Errno}: {fault.Message}");
    }
}
