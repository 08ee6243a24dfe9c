using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Models;

/// <summary>
/// A guest's memory whose content is another one at each look: what is read a second time, and now and then what is read for the first, changes right before
/// that. By messages at each read; where the device reads host memory by itself, by a thread beside it and from the middle of its work.
/// </summary>
internal sealed class ChangingMemory : IRemoteMemory, IDisposable
{
    internal const ulong Base = 0x40000;
    internal const int Size = 0x8000;
    internal const byte Secret = 0xE7;
    // What lies before and behind, which no address of the guest reaches.
    private const int Margin = 0x4000;

    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("changing");
    private readonly Random _random;
    private readonly bool[] _wasRead = new bool[Size];
    private int _changes;

    internal ChangingMemory(bool isFar, int seed)
    {
        _random = new Random(seed);
        _memory = HostMemory.Allocate("changing", Size + (2 * Margin), out var file);
        file.Dispose();
        var secret = new byte[Margin];
        Array.Fill(secret, Secret);
        _memory.Write(0, secret);
        _memory.Write(Margin + Size, secret);
        var range = new IovaRange(new Iova(Base), Size);
        Assert.True(isFar ? _space.TryMap(range, this, DmaAccess.ReadWrite, out var fault) : _space.TryMap(range.Start, range.Size, _memory, Margin, DmaAccess.ReadWrite, out fault), fault.Message);
        _dma.Attach(_space);
    }

    internal DmaPort Port => _dma.Port;

    internal HostMemory Host => _memory;

    /// <summary>Where the guest's memory begins in <see cref="Host"/>.</summary>
    internal static ulong Start => Margin;

    internal int Changes => Volatile.Read(ref _changes);

    public void Dispose()
    {
        _dma.Attach(null);
        _space.Dispose();
        _memory.Dispose();
    }

    public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
    {
        fault = Fault.None;
        var at = Check(address, destination.Length);
        var isAgain = _wasRead.AsSpan(at, destination.Length).Contains(true);
        if (destination.Length > 0 && _random.Next(isAgain ? 2 : 40) == 0)
            Change(_random, at, destination.Length);
        _wasRead.AsSpan(at, destination.Length).Fill(true);
        _memory.Read(Margin + (ulong)at, destination);
        return true;
    }

    public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
    {
        fault = Fault.None;
        _memory.Write(Margin + (ulong)Check(address, source.Length), source);
        return true;
    }

    internal void Write(int at, ReadOnlySpan<byte> bytes)
    {
        _memory.Write(Margin + (ulong)at, bytes);
        _wasRead.AsSpan(at, bytes.Length).Clear();
    }

    /// <summary>Changes one or two bytes of a part, or all of it.</summary>
    internal void Change(Random random, int at, int length)
    {
        var offset = at + random.Next(length);
        Span<byte> bytes = stackalloc byte[1 + random.Next(2)];
        if (offset + bytes.Length > at + length)
            bytes = bytes[..1];
        // Mostly what means something: small numbers, and the bits of flags.
        switch (random.Next(4))
        {
            case 0:
                random.NextBytes(bytes);
                break;
            case 1:
                bytes[0] = (byte)(1 << random.Next(8));
                break;
            default:
                bytes[0] = (byte)random.Next(8);
                break;
        }

        for (var i = 0; i < bytes.Length; i++)
            bytes[i] = bytes[i] == Secret ? (byte)0 : bytes[i];
        _memory.Write(Margin + (ulong)offset, bytes);
        Interlocked.Increment(ref _changes);
    }

    /// <summary>What is not the guest's is as it was.</summary>
    internal void CheckMargins()
    {
        var bytes = new byte[Margin];
        foreach (var at in (ulong[])[0, Margin + Size])
        {
            _memory.Read(at, bytes);
            Assert.False(bytes.AsSpan().ContainsAnyExcept(Secret));
        }
    }

    /// <summary>Nothing of what is not the guest's is in what came out.</summary>
    internal static void CheckOutput(ReadOnlySpan<byte> bytes) => Assert.True(bytes.IndexOf([Secret, Secret, Secret, Secret, Secret, Secret, Secret, Secret]) < 0);

    private static int Check(Iova address, int length)
    {
        Assert.InRange(address.Value, Base, Base + Size - (ulong)length);
        return (int)(address.Value - Base);
    }
}
