using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;

namespace VfioUserDriver;

/// <summary>A PCI function on a vfio-user socket as a driver wants it, of whatever kind it is: registers, memory that it reaches, interrupts.</summary>
internal sealed class UserFunction : IDisposable
{
    // As in linux/vfio.h; regions 0 to 5 are the BARs.
    private const uint ConfigRegion = 7;
    private const uint MsixIndex = 2;
    private const ulong CommandRegister = 4;
    private const ushort MemoryDecoding = 1 << 1, BusMaster = 1 << 2;
    private static readonly Iova MemoryBase = new(0x1_0000_0000);

    private readonly string _path;
    private HostMemory? _memory;
    private EventFd[] _vectors = [];

    /// <param name="path">The socket's path. The function is this process's until the object is disposed; others wait for it.</param>
    /// <exception cref="VirtbusException">Nobody listens there, or another client has the function.</exception>
    public UserFunction(string path)
    {
        _path = path;
        Client = VfioUserClient.Connect(path, new VfioUserClientOptions { Timeout = TimeSpan.FromSeconds(5) });
    }

    public VfioUserClient Client { get; }

    /// <summary>Vendor in the low half, device in the high one.</summary>
    public uint Identity
    {
        get
        {
            Span<byte> value = stackalloc byte[4];
            Check(Client.TryRead(ConfigRegion, 0, value, out var fault), fault);
            return BinaryPrimitives.ReadUInt32LittleEndian(value);
        }
    }

    /// <summary>The memory that the function reaches, once it is enabled.</summary>
    public HostMemory Memory => _memory ?? throw new InvalidOperationException("The function is not enabled.");

    /// <summary>Where the function finds a place of the memory.</summary>
    public ulong AddressOf(int offset) => MemoryBase.Value + (ulong)offset;

    /// <summary>Shares memory, whole pages of it, with the function, an eventfd for each of its first vectors, and lets it use both.</summary>
    public void Enable(int memorySize, int vectors)
    {
        _memory = HostMemory.Allocate("vfio_user_driver", (ulong)memorySize, out var file);
        using (file)
            Check(Client.TryMapDma(new IovaRange(MemoryBase, (ulong)memorySize), _memory, 0, DmaAccess.ReadWrite, file, 0, out var fault), fault);

        _vectors = [.. Enumerable.Range(0, vectors).Select(_ => new EventFd())];
        var set = new VfioIrqSet
        {
            Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger,
            Index = MsixIndex,
            Start = 0,
            Count = (uint)vectors,
            EventFds = _vectors,
        };
        Check(Client.TrySetIrqs(set, out var refused), refused);

        // Last: from here on the function may do DMA, and an interrupt is a write of it, too.
        Span<byte> command = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(command, MemoryDecoding | BusMaster);
        Check(Client.TryWrite(ConfigRegion, CommandRegister, command, out refused), refused);
    }

    public ulong Read64(uint bar, ulong offset)
    {
        Span<byte> value = stackalloc byte[8];
        Check(Client.TryRead(bar, offset, value, out var fault), fault);
        return BinaryPrimitives.ReadUInt64LittleEndian(value);
    }

    public void Write64(uint bar, ulong offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Check(Client.TryWrite(bar, offset, bytes, out var fault), fault);
    }

    /// <summary>Waits until a vector has fired since this was asked last.</summary>
    /// <exception cref="VirtbusException">ETIMEDOUT.</exception>
    public void WaitForInterrupt(int vector, TimeSpan timeout)
    {
        if (!_vectors[vector].Wait(timeout))
            throw new VirtbusException(Errno.ETIMEDOUT, $"Vector {vector} of the function at '{_path}' did not fire in {timeout.TotalSeconds} s. Look into its server's log.");
    }

    /// <summary>Lets go of the function, which its server resets.</summary>
    public void Dispose()
    {
        Client.Dispose();
        _memory?.Dispose();
        foreach (var vector in _vectors)
            vector.Dispose();
    }

    private void Check(bool done, Fault fault)
    {
        if (!done)
            throw new VirtbusException(fault.Errno, $"The function at '{_path}' cannot be used: {fault.Errno}, {fault.Message}. Look into its server's log.");
    }
}
