using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Trust;

/// <summary>A device of a daemon as its driver in user space has it: registers, memory and interrupts over vfio-user.</summary>
internal abstract class UserDevice : IDisposable
{
    public const uint ConfigRegion = 7;
    public const uint IntxIndex = 0;
    public const uint MsixIndex = 2;
    public const int Vectors = 8;
    public const int MemorySize = 1 << 20;
    private const uint RequestIndex = 4;
    private const ulong CommandRegister = 4;
    private const ushort DecodeAndMaster = 7;

    /// <summary>How long a device may take for anything.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Where the device finds the user's memory.</summary>
    public static readonly Iova MemoryBase = new(0x1_0000_0000);

    private readonly bool _byMessage;
    private readonly EventFd _request = new();

    /// <param name="client">The open device; it belongs to this object.</param>
    /// <param name="byMessage">Whether the device reaches the memory by messages.</param>
    protected UserDevice(VfioUserClient client, bool byMessage)
    {
        Client = client;
        _byMessage = byMessage;
        for (var i = 0; i < Vectors; i++)
            Signals[i] = new EventFd();
    }

    public VfioUserClient Client { get; }

    public GuestMemory Memory { get; } = new(MemorySize);

    /// <summary>An eventfd a vector.</summary>
    public EventFd[] Signals { get; } = new EventFd[Vectors];

    /// <summary>Whether the daemon asked the user to let go since this was looked at last.</summary>
    public bool TakeRequest() => _request.TryRead(out _);

    /// <summary>Opens a device.</summary>
    /// <param name="kind">Its kind.</param>
    /// <param name="path">Its socket.</param>
    /// <param name="byMessage">Whether it reaches the user's memory by messages.</param>
    /// <param name="twinSocket">Whether its own requests have a socket of their own.</param>
    /// <param name="timeout">How long an answer may take; <see cref="Patience"/> when left out.</param>
    /// <exception cref="VirtbusException">The server is not there, or turns the user away.</exception>
    public static UserDevice Open(DeviceKind kind, string path, bool byMessage, bool twinSocket, TimeSpan? timeout = null)
    {
        var client = VfioUserClient.Connect(path, new VfioUserClientOptions { TwinSocket = twinSocket, Timeout = timeout ?? Patience });
        return kind switch
        {
            DeviceKind.Nic => new NicUser(client, byMessage),
            DeviceKind.Serial => new SerialUser(client, byMessage),
            _ => new ScratchUser(client, byMessage),
        };
    }

    /// <summary>What makes the device ready for use, each an operation that may fail when its time has come.</summary>
    public virtual IEnumerable<Func<Fault>> SetUp =>
    [
        ListenToRequests,
        Enable,
        () => FaultOf(Client.TryMapDma(new IovaRange(MemoryBase, MemorySize), Memory.Memory, 0, DmaAccess.ReadWrite, _byMessage ? null : Memory.File, 0, out var fault), fault),
    ];

    /// <summary>Uses the device in one of its own ways; what fails is no matter.</summary>
    public abstract void Work(Random random);

    /// <summary>Goes once through all that the device is for.</summary>
    /// <exception cref="DeviceFailure">Something of it does not work.</exception>
    public abstract void Check();

    /// <summary>Opens a device, checks that it works, and closes it.</summary>
    /// <exception cref="DeviceFailure">Something of it does not work.</exception>
    public static void Check(DeviceKind kind, string path, bool byMessage, bool twinSocket)
    {
        using var device = Open(kind, path, byMessage, twinSocket);
        device.SetUpOrFail();
        device.Check();
    }

    /// <exception cref="DeviceFailure">A part of it failed.</exception>
    public void SetUpOrFail()
    {
        foreach (var part in SetUp)
            Demand(part());
    }

    /// <summary>Lets the device decode its BARs and reach memory.</summary>
    public Fault Enable()
    {
        Span<byte> command = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(command, DecodeAndMaster);
        return FaultOf(Client.TryWrite(ConfigRegion, CommandRegister, command, out var fault), fault);
    }

    public void Dispose()
    {
        Client.Dispose();
        Memory.Dispose();
        _request.Dispose();
        foreach (var signal in Signals)
            signal.Dispose();
        GC.SuppressFinalize(this);
    }

    protected static Fault FaultOf(bool done, Fault fault) => done ? Fault.None : fault;

    protected static void Demand(Fault fault)
    {
        if (fault != Fault.None)
            throw new DeviceFailure($"{fault.Errno}: {fault.Message}");
    }

    protected static void Demand(bool holds, string what)
    {
        if (!holds)
            throw new DeviceFailure(what);
    }

    /// <summary>Asks for an eventfd for each vector of an interrupt index.</summary>
    protected Fault SetSignals(uint index, int count) =>
        FaultOf(Client.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, Index = index, Start = 0, Count = (uint)count, EventFds = Signals.AsSpan(0, count)! }, out var fault), fault);

    protected void DemandSignal(int vector) =>
        Demand(Patient.Await(Client, () => Signals[vector].TryRead(out _), Patience), $"interrupt {vector} did not come");

    protected Fault Write32(uint region, ulong offset, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return FaultOf(Client.TryWrite(region, offset, bytes, out var fault), fault);
    }

    protected uint Read32(uint region, ulong offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        Demand(FaultOf(Client.TryRead(region, offset, bytes, out var fault), fault));
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    private Fault ListenToRequests() =>
        FaultOf(Client.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, Index = RequestIndex, Start = 0, Count = 1, EventFds = new[] { _request } }, out var fault), fault);
}
