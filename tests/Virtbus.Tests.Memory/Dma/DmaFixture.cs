using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Memory.Dma;

/// <summary>A function in a group that a user owns, with an address space attached, and memory to map there.</summary>
internal sealed class DmaFixture : IDisposable
{
    internal const ulong Page = 4096;
    internal const ulong MemorySize = 64 * Page;

    internal DmaFixture(IoAddressSpaceOptions? options = null)
    {
        Space = options is null ? new IoAddressSpace() : new IoAddressSpace(options);
        Memory = HostMemory.Allocate("virtbus-test", MemorySize, out var file);
        file.Dispose();
        Port = new DmaPort("0000:01:00.0", Group) { IsBusMaster = true };
        Assert.True(Group.TryClaimForUser(this, "test", out _));
        Assert.True(Group.TryAttach(this, Port, Space, out _));
    }

    internal IommuGroup Group { get; } = new(7);

    internal DmaPort Port { get; }

    internal IoAddressSpace Space { get; }

    internal HostMemory Memory { get; }

    public void Dispose()
    {
        Space.Dispose();
        Memory.Dispose();
    }

    internal static IovaRange Range(ulong start, ulong size) => new(new Iova(start), size);

    internal Errno Map(ulong start, ulong size, ulong offset = 0, DmaAccess access = DmaAccess.ReadWrite)
    {
        Space.TryMap(new Iova(start), size, Memory, offset, access, out var fault);
        return fault.Errno;
    }

    internal Errno Unmap(ulong start, ulong size, out ulong unmapped)
    {
        Space.TryUnmap(Range(start, size), out unmapped, out var fault);
        return fault.Errno;
    }

    internal bool CanRead(ulong address, int length = 1) => Port.TryRead(new Iova(address), new byte[length]);

    internal bool CanWrite(ulong address, int length = 1) => Port.TryWrite(new Iova(address), new byte[length]);

    internal byte[] Bytes(ulong offset, int length)
    {
        var bytes = new byte[length];
        Memory.Read(offset, bytes);
        return bytes;
    }
}
