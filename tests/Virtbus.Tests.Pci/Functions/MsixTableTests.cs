using System.Buffers.Binary;
using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Functions;

public sealed class MsixTableTests
{
    private readonly List<(ulong Address, uint Data)> _sent = [];

    [Fact]
    public void After_a_reset_every_vector_is_masked_and_nothing_is_sent()
    {
        var table = Make(3);
        Assert.Equal((48, 8), (table.TableSize, table.PendingSize));
        for (var i = 0; i < 3; i++)
        {
            Assert.True(table.IsMasked(i));
            Assert.Equal(1u, Word(table, (16 * i) + 12));
        }
        Assert.False(table.Raise(0));
        Assert.False(table.IsPending(0));
        Assert.Empty(_sent);
    }

    [Fact]
    public void Raised_vector_sends_its_own_message()
    {
        var table = Make(2);
        Set(table, 0, 0xFEE00000, 0x11, masked: false);
        Set(table, 1, 0x1_FEE01000, 0x22, masked: false);
        table.SetControl(enabled: true, functionMasked: false);
        Assert.True(table.Raise(1));
        Assert.True(table.Raise(0));
        Assert.Equal([(0x1_FEE01000UL, 0x22u), (0xFEE00000UL, 0x11u)], _sent);
        table.GetMessage(1, out var address, out var data);
        Assert.Equal((0x1_FEE01000UL, 0x22u), (address, data));
    }

    [Fact]
    public void Masked_vector_is_pending_and_is_sent_once_when_unmasked()
    {
        var table = Make(70);
        Set(table, 65, 0xFEE00000, 0x33, masked: true);
        table.SetControl(enabled: true, functionMasked: false);
        table.Raise(65);
        table.Raise(65);
        Assert.True(table.IsPending(65));
        var pending = new byte[16];
        table.ReadPending(0, pending);
        Assert.Equal(2, pending[8]);
        Assert.Empty(_sent);
        // What is written while masked counts.
        Write(table, (65 * 16) + 8, 0x44);
        Write(table, (65 * 16) + 12, 0);
        Assert.Equal([(0xFEE00000UL, 0x44u)], _sent);
        Assert.False(table.IsPending(65));
    }

    [Fact]
    public void Function_mask_holds_all_vectors_and_its_end_sends_those_that_are_not_masked_themselves()
    {
        var table = Make(4);
        for (var i = 0; i < 4; i++)
            Set(table, i, 0xFEE00000, (uint)i, masked: i == 2);
        table.SetControl(enabled: true, functionMasked: true);
        Assert.True(table.IsFunctionMasked);
        table.Raise(3);
        table.Raise(2);
        table.Raise(0);
        Assert.Empty(_sent);
        table.SetControl(enabled: true, functionMasked: false);
        Assert.Equal([0u, 3u], _sent.Select(m => m.Data));
        Assert.True(table.IsPending(2));
    }

    [Fact]
    public void Disabling_forgets_what_is_pending()
    {
        var table = Make(1);
        table.SetControl(enabled: true, functionMasked: false);
        table.Raise(0);
        Assert.True(table.IsPending(0));
        table.SetControl(enabled: false, functionMasked: false);
        Assert.False(table.IsPending(0));
        table.SetControl(enabled: true, functionMasked: false);
        Write(table, 12, 0);
        Assert.Empty(_sent);
    }

    [Fact]
    public void Table_keeps_what_is_written_but_reserved_bits()
    {
        var table = Make(2);
        var ones = new byte[64];
        Array.Fill(ones, (byte)0xFF);
        table.Write(0, ones);
        Assert.Equal([0xFFFFFFFC, 0xFFFFFFFF, 0xFFFFFFFF, 1, 0xFFFFFFFC, 0xFFFFFFFF, 0xFFFFFFFF, 1], Enumerable.Range(0, 8).Select(i => Word(table, 4 * i)));
        table.Write(9, [0xAA]);
        Assert.Equal(0xFFFFAAFFu, Word(table, 8));
        var beyond = new byte[4];
        table.Read(30, beyond);
        Assert.Equal([0, 0, 0xFF, 0xFF], beyond);
        table.ReadPending(6, beyond);
        Assert.Equal([0, 0, 0xFF, 0xFF], beyond);
    }

    [Fact]
    public void Vector_beyond_the_table_is_our_bug()
    {
        var table = Make(2);
        Assert.Throws<ArgumentOutOfRangeException>(() => table.Raise(2));
        Assert.Throws<ArgumentOutOfRangeException>(() => table.Raise(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MsixTable(0, (_, _) => { }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MsixTable(2049, (_, _) => { }));
    }

    [Fact]
    public void No_raise_is_lost_while_another_thread_masks_and_unmasks()
    {
        var count = 0;
        var table = new MsixTable(1, (_, _) => Interlocked.Increment(ref count));
        table.SetControl(enabled: true, functionMasked: false);
        var isEnding = false;
        var masker = new Thread(() =>
        {
            while (!Volatile.Read(ref isEnding))
            {
                Write(table, 12, 1);
                Write(table, 12, 0);
            }
        }) { IsBackground = true };
        masker.Start();
        for (var i = 0; i < 2000; i++)
        {
            var before = Volatile.Read(ref count);
            table.Raise(0);
            Deadline.Until(() => Volatile.Read(ref count) > before, "the message of a raise");
        }
        Volatile.Write(ref isEnding, true);
        masker.Ends("the thread that masks");
        Assert.False(table.IsPending(0));
        Assert.InRange(count, 2000, 2000);
    }

    [Fact]
    public void Delivery_allocates_nothing()
    {
        var count = 0;
        var table = new MsixTable(64, (_, _) => count++);
        table.SetControl(enabled: true, functionMasked: false);
        byte[] masked = [1, 0, 0, 0], unmasked = [0, 0, 0, 0];
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 1000; i++)
            {
                table.Write(12, unmasked);
                table.Raise(0);
                table.Write(12, masked);
                table.Raise(0);
            }
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
        Assert.Equal(3999, count);
    }

    private static uint Word(MsixTable table, int offset)
    {
        Span<byte> value = stackalloc byte[4];
        table.Read((ulong)offset, value);
        return BinaryPrimitives.ReadUInt32LittleEndian(value);
    }

    private static void Write(MsixTable table, int offset, uint value)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        table.Write((ulong)offset, data);
    }

    private static void Set(MsixTable table, int vector, ulong address, uint data, bool masked)
    {
        Span<byte> entry = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(entry, address);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], data);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[12..], masked ? 1u : 0);
        table.Write((ulong)vector * 16, entry);
    }

    private MsixTable Make(int vectors) => new(vectors, (address, data) => _sent.Add((address, data)));
}
