using System.Buffers.Binary;
using System.Numerics;
using Virtbus.Ethernet;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// A device's settings as bytes. All numbers little-endian: MTU 2, status 2, modes 1, flags 1, counts of unicast and multicast addresses 1 each; address
/// 8; offloads 8; pairs 2, unclassified 2, table entries 2, reserved 2; hash types 4; key 40; table 128 of 2; addresses 64 and 64 of 8; VLANs 512.
/// </summary>
internal sealed class NetImage
{
    internal const int Size = TableAt + (MostTableEntries * 2) + (2 * AddressBytes) + (ReceiveFilter.VlanWords * 8);
    private const int MacAt = 8;
    private const int OffloadsAt = 16;
    private const int PairsAt = 24;
    private const int TypesAt = 32;
    private const int KeyAt = 36;
    private const int TableAt = KeyAt + MostKeyBytes;
    private const int AddressBytes = ReceiveFilter.MostAddresses * 8;
    private const int UnicastAt = TableAt + (MostTableEntries * 2);
    private const int MulticastAt = UnicastAt + AddressBytes;
    private const int VlansAt = MulticastAt + AddressBytes;

    private const byte AllUnicast = 1;
    private const byte AllMulticast = 2;
    private const byte HasOffloads = 4;
    private const byte HasHash = 8;
    private const byte HasTable = 16;
    private const byte KnownFlags = AllUnicast | AllMulticast | HasOffloads | HasHash | HasTable;

    private readonly byte[] _bytes;

    /// <summary>Takes bytes that are not trusted, <see cref="Size"/> of them.</summary>
    internal NetImage(ReadOnlySpan<byte> bytes) => _bytes = bytes.ToArray();

    private byte Flags => _bytes[5];

    private ushort Status => Word(2);

    private ushort Pairs => Word(PairsAt);

    private int TableEntries => Word(PairsAt + 4);

    private ulong Mac => Long(MacAt);

    private ulong Offloads => Long(OffloadsAt);

    internal static byte[] Write(NetSettings settings, int mtu)
    {
        var bytes = new byte[Size];
        var (filter, steering, offloads) = (settings.Filter, settings.Steering, settings.Offloads);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, (ushort)mtu);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(2), settings.Status);
        bytes[4] = filter.Modes;
        bytes[5] = (byte)((filter.Unicast is null ? AllUnicast : 0) | (filter.Multicast is null ? AllMulticast : 0) | (offloads is null ? 0 : HasOffloads)
            | (steering.Hash is null ? 0 : HasHash) | (steering.Table is null ? 0 : HasTable));
        bytes[6] = (byte)(filter.Unicast?.Length ?? 0);
        bytes[7] = (byte)(filter.Multicast?.Length ?? 0);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(MacAt), filter.Mac);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(OffloadsAt), offloads ?? 0);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(PairsAt), (ushort)steering.Pairs);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(PairsAt + 2), steering.Unclassified);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(PairsAt + 4), (ushort)(steering.Table?.Length ?? 0));
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(TypesAt), steering.Hash?.Types ?? 0);
        steering.Hash?.Key.CopyTo(bytes.AsSpan(KeyAt));
        for (var i = 0; i < (steering.Table?.Length ?? 0); i++)
            BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(TableAt + (i * 2)), steering.Table![i]);
        WriteLongs(filter.Unicast, bytes.AsSpan(UnicastAt));
        WriteLongs(filter.Multicast, bytes.AsSpan(MulticastAt));
        WriteLongs(filter.Vlans, bytes.AsSpan(VlansAt));
        return bytes;
    }

    /// <summary>What a device with these options can't have; null when it may be applied.</summary>
    internal string? WhatIsWrong(VirtioNetOptions options)
    {
        if (Word(0) != options.Mtu)
            return $"is of a device with an MTU of {Word(0)}; this one has {options.Mtu}";
        if ((Status & ~(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE)) != 0 || _bytes[4] >> ReceiveFilter.ModeCount != 0 || (Flags & ~KnownFlags) != 0)
            return "has a status, a mode or a flag that there is not";
        if (_bytes[6] > ReceiveFilter.MostAddresses || _bytes[7] > ReceiveFilter.MostAddresses || Mac >> 48 != 0
            || Longs(UnicastAt, 2 * ReceiveFilter.MostAddresses).Any(address => address >> 48 != 0))
            return "has more addresses than a device keeps, or one that is none";
        if ((Offloads & ~NetOffloads.GuestBits) != 0 || (Word32(TypesAt) & ~HashTypes) != 0)
            return "has an offload or a hash type that there is not";
        var hasTable = (Flags & HasTable) != 0;
        if (Pairs < 1 || Pairs > options.QueuePairs || (hasTable && (Flags & HasHash) == 0)
            || (hasTable ? !BitOperations.IsPow2(TableEntries) || TableEntries > MostTableEntries : TableEntries != 0))
            return "has queue pairs or a table that such a device can't have";
        return Word(PairsAt + 2) >= options.QueuePairs || Table().Any(pair => pair >= options.QueuePairs) ? "names a queue pair that there is not" : null;
    }

    /// <summary>Takes it over; nothing is wrong with it.</summary>
    internal void Apply(NetSettings settings)
    {
        var filter = new ReceiveFilter(Mac)
        {
            Modes = _bytes[4],
            Unicast = (Flags & AllUnicast) != 0 ? null : Longs(UnicastAt, _bytes[6]),
            Multicast = (Flags & AllMulticast) != 0 ? null : Longs(MulticastAt, _bytes[7]),
            Vlans = Longs(VlansAt, ReceiveFilter.VlanWords),
        };
        var steering = new FlowSteering(Pairs)
        {
            Hash = (Flags & HasHash) != 0 ? new FlowHash(Word32(TypesAt), _bytes.AsSpan(KeyAt, MostKeyBytes)) : null,
            Table = (Flags & HasTable) != 0 ? Table() : null,
            Unclassified = Word(PairsAt + 2),
        };
        settings.Replace(filter, steering, (Flags & HasOffloads) != 0 ? Offloads : null, Status);
    }

    private static void WriteLongs(ulong[]? values, Span<byte> to)
    {
        foreach (var value in values ?? [])
        {
            BinaryPrimitives.WriteUInt64LittleEndian(to, value);
            to = to[sizeof(ulong)..];
        }
    }

    private ushort[] Table() => [.. Enumerable.Range(0, TableEntries).Select(i => Word(TableAt + (i * 2)))];

    private ulong[] Longs(int at, int count) => [.. Enumerable.Range(0, count).Select(i => Long(at + (i * sizeof(ulong))))];

    private ushort Word(int at) => BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(at));

    private uint Word32(int at) => BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(at));

    private ulong Long(int at) => BinaryPrimitives.ReadUInt64LittleEndian(_bytes.AsSpan(at));
}
