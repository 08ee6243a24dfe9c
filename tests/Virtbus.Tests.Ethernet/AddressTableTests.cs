using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>What the switch knows of addresses: how long, how many, and from several threads.</summary>
public sealed class AddressTableTests
{
    private readonly ManualTime _time = new();

    [Fact]
    public void Port_of_one_guest_has_so_many_addresses_and_others_have_theirs()
    {
        var switching = new EthernetSwitch(_time);
        var batch = new SwitchBatch(switching);
        var (first, second) = (new KeepingSink(), new KeepingSink());
        var (a, b, c) = (new SwitchPort(first) { MaxAddresses = 2 }, new SwitchPort(second), new SwitchPort(new KeepingSink()));
        foreach (var port in new[] { a, b, c })
            switching.Join(port);
        for (ulong address = 1; address <= 3; address++)
            Send(batch, a, 0xFFFFFFFFFFFF, address);
        Send(batch, b, 0xFFFFFFFFFFFF, 9);
        Assert.Equal((1, 0), Reach(1));
        Assert.Equal((1, 0), Reach(2));
        // The third one is known nowhere, that of another port is.
        Assert.Equal((1, 1), Reach(3));
        Assert.Equal((0, 1), Reach(9));
        // What is forgotten makes room.
        _time.Advance(TimeSpan.FromSeconds(301));
        Send(batch, a, 0xFFFFFFFFFFFF, 3);
        Assert.Equal((1, 0), Reach(3));

        (int, int) Reach(ulong address)
        {
            first.Frames.Clear();
            second.Frames.Clear();
            Send(batch, c, address, 0xFFFFFFFFFFFF);
            return (first.Frames.Count, second.Frames.Count);
        }
    }

    [Fact]
    public void Address_that_moves_counts_where_it_is()
    {
        var switching = new EthernetSwitch(_time);
        var batch = new SwitchBatch(switching);
        var (first, second) = (new KeepingSink(), new KeepingSink());
        var (a, b, c) = (new SwitchPort(first) { MaxAddresses = 2 }, new SwitchPort(second) { MaxAddresses = 3 }, new SwitchPort(new KeepingSink()));
        foreach (var port in new[] { a, b, c })
            switching.Join(port);
        Send(batch, a, 0xFFFFFFFFFFFF, 1);
        Send(batch, a, 0xFFFFFFFFFFFF, 2);
        Send(batch, b, 0xFFFFFFFFFFFF, 3);
        // One that has as many as it may gets none by claiming it.
        Send(batch, a, 0xFFFFFFFFFFFF, 3);
        Assert.Equal((0, 1), Reach(3));
        // One that has room does, and who lost it has room then.
        Send(batch, b, 0xFFFFFFFFFFFF, 1);
        Assert.Equal((0, 1), Reach(1));
        Send(batch, a, 0xFFFFFFFFFFFF, 4);
        Assert.Equal((1, 0), Reach(4));
        Send(batch, b, 0xFFFFFFFFFFFF, 2);
        Send(batch, b, 0xFFFFFFFFFFFF, 4);
        Assert.Equal((0, 1), Reach(2));
        Assert.Equal((1, 0), Reach(4));
        Assert.Equal((1, 3), (a.Learned, b.Learned));

        (int, int) Reach(ulong address)
        {
            first.Frames.Clear();
            second.Frames.Clear();
            Send(batch, c, address, 0xFFFFFFFFFFFF);
            return (first.Frames.Count, second.Frames.Count);
        }
    }

    [Fact]
    public void Address_of_a_port_that_goes_is_learned_anew_at_once()
    {
        const int Rounds = 300;
        var switching = new EthernetSwitch(_time);
        var (stays, sees) = (new SwitchPort(new KeepingSink()), new KeepingSink { Keeps = false });
        var flooded = 0;
        sees.Delivered = _ => flooded++;
        switching.Join(stays);
        switching.Join(new SwitchPort(sees));
        var (mine, others) = (new SwitchBatch(switching), new SwitchBatch(switching));
        using var stop = new CancellationTokenSource();
        var leaver = new Thread(() =>
        {
            for (var i = 0; i < Rounds; i++)
            {
                var goes = new SwitchPort(new KeepingSink());
                switching.Join(goes);
                // To itself, as what comes next.
                Send(others, goes, 1, 1);
                switching.Leave(goes);
            }
            stop.Cancel();
        });
        Send(mine, stays, 1, 1);
        leaver.Start();
        while (!stop.IsCancellationRequested)
            Send(mine, stays, 1, 1);
        leaver.Join();
        // From where the frame comes or from the port that took the address: nobody else sees it, but in the moment in which nobody has it.
        Assert.InRange(flooded, 0, Rounds);
        flooded = 0;
        Send(mine, stays, 1, 1);
        Assert.Equal(0, flooded);
    }

    [Fact]
    public void Address_that_is_not_seen_again_is_forgotten()
    {
        var switching = new EthernetSwitch(_time);
        Assert.Equal(TimeSpan.FromSeconds(300), switching.AddressAge);
        var batch = new SwitchBatch(switching);
        var (first, second) = (new KeepingSink(), new KeepingSink());
        var (a, b, c) = (new SwitchPort(first), new SwitchPort(second), new SwitchPort(new KeepingSink()));
        foreach (var port in new[] { a, b, c })
            switching.Join(port);
        Send(batch, a, 0xFFFFFFFFFFFF, 1);
        _time.Advance(TimeSpan.FromSeconds(299));
        Send(batch, a, 0xFFFFFFFFFFFF, 1);
        _time.Advance(TimeSpan.FromSeconds(300));
        Assert.Equal((1, 0), Reach());
        _time.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal((1, 1), Reach());
        Send(batch, a, 0xFFFFFFFFFFFF, 1);
        Assert.Equal((1, 0), Reach());
        switching.AddressAge = TimeSpan.FromSeconds(10);
        _time.Advance(TimeSpan.FromSeconds(11));
        Assert.Equal((1, 1), Reach());
        Assert.Throws<ArgumentOutOfRangeException>(() => switching.AddressAge = TimeSpan.Zero);

        (int, int) Reach()
        {
            first.Frames.Clear();
            second.Frames.Clear();
            Send(batch, c, 1, 0xFFFFFFFFFFFF);
            return (first.Frames.Count, second.Frames.Count);
        }
    }

    [Fact]
    public void Full_table_gives_up_what_is_old_and_keeps_the_rest()
    {
        var table = new AddressTable(frequency: 10) { MaxAge = 5000 };
        var port = new SwitchPort(new KeepingSink());
        for (ulong i = 0; i < AddressTable.MaxAddresses; i++)
            table.Learn(i, 0, port, now: (long)i);
        table.Learn(0xFFFF, 0, port, now: 4095);
        // Those from 1000 on are seen again.
        for (ulong i = 1000; i < AddressTable.MaxAddresses; i++)
            table.Learn(i, 0, port, now: 6000);
        Assert.Null(table.Find(0xFFFF, 0, 4095));
        table.Learn(0xFFFF, 0, port, now: 6000);
        Assert.Same(port, table.Find(0xFFFF, 0, 6000));
        Assert.Null(table.Find(999, 0, 6000));
        Assert.Same(port, table.Find(1000, 0, 6000));
        Assert.Same(port, table.Find(4095, 0, 6000));
        // There is room for all that were given up.
        for (ulong i = 0; i < 1000; i++)
            table.Learn(0x10000 + i, 0, port, now: 6000);
        Assert.Same(port, table.Find(0x10000 + 998, 0, 6000));
        Assert.Null(table.Find(0x10000 + 999, 0, 6000));
    }

    [Fact]
    public void Age_that_is_shortened_counts_for_a_full_table_at_once()
    {
        var table = new AddressTable(frequency: 10) { MaxAge = 5000 };
        var port = new SwitchPort(new KeepingSink()) { MaxAddresses = 2 };
        table.Learn(1, 0, port, now: 0);
        table.Learn(2, 0, port, now: 0);
        // Looked through for the last time before any of them is old.
        table.Learn(3, 0, port, now: 100);
        Assert.Null(table.Find(3, 0, 100));
        table.MaxAge = 50;
        table.Learn(3, 0, port, now: 200);
        Assert.Same(port, table.Find(3, 0, 200));
    }

    [Fact]
    public void Full_table_costs_an_unknown_address_no_allocation()
    {
        var table = new AddressTable(frequency: 1) { MaxAge = 300 };
        var port = new SwitchPort(new KeepingSink());
        for (ulong i = 0; i < AddressTable.MaxAddresses + 1; i++)
            table.Learn(i, 0, port, now: 0);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (ulong i = 0; i < 100_000; i++)
            table.Learn(0x10000 + i, 0, port, now: 1);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Fact]
    public void Address_that_moves_costs_no_allocation_and_is_where_it_was_seen_last()
    {
        var table = new AddressTable(frequency: 1) { MaxAge = 300 };
        SwitchPort[] ports = [new(new KeepingSink()), new(new KeepingSink())];
        table.Learn(1, 0, ports[0], 0);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 1; i < 1000; i++)
        {
            table.Learn(1, 0, ports[i % 2], 0);
            if (table.Find(1, 0, 0) != ports[i % 2])
                Assert.Fail("It is not where it was seen last.");
        }
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Fact]
    public void Gone_port_is_not_found_and_not_learned()
    {
        var table = new AddressTable(frequency: 1) { MaxAge = 300 };
        var (gone, stays) = (new SwitchPort(new KeepingSink()), new SwitchPort(new KeepingSink()));
        table.Learn(1, 5, gone, 0);
        table.Learn(2, 5, stays, 0);
        Assert.Same(gone, table.Find(1, 5, 0));
        Assert.Null(table.Find(1, 6, 0));
        gone.IsGone = true;
        Assert.Null(table.Find(1, 5, 0));
        table.ForgetGone();
        table.Learn(3, 5, gone, 0);
        Assert.Equal((null, stays, null), (table.Find(1, 5, 0), table.Find(2, 5, 0), table.Find(3, 5, 0)));
    }

    [Fact]
    public void What_is_known_is_found_while_others_learn_and_forget()
    {
        var table = new AddressTable(frequency: 1) { MaxAge = 300 };
        var known = new SwitchPort(new KeepingSink());
        for (ulong i = 0; i < 50; i++)
            table.Learn(i, 0, known, 0);
        var isDone = false;
        var writer = new Thread(() =>
        {
            for (var round = 0; round < 200; round++)
            {
                var port = new SwitchPort(new KeepingSink());
                for (ulong i = 0; i < 500; i++)
                    table.Learn(0x1000 + i, (ushort)round, port, 0);
                port.IsGone = true;
                table.ForgetGone();
            }
            Volatile.Write(ref isDone, true);
        });
        writer.Start();
        var missed = 0;
        while (!Volatile.Read(ref isDone))
        {
            for (ulong i = 0; i < 50; i++)
                missed += table.Find(i, 0, 0) == known ? 0 : 1;
        }
        writer.Join();
        Assert.Equal(0, missed);
    }

    private static void Send(SwitchBatch batch, SwitchPort from, ulong destination, ulong source)
    {
        var bytes = new byte[60];
        for (var i = 0; i < 6; i++)
            (bytes[i], bytes[6 + i]) = ((byte)(destination >> (40 - (8 * i))), (byte)(source >> (40 - (8 * i))));
        batch.Forward(from, new EthernetFrame(bytes));
        batch.End(static (_, exception) => throw exception);
    }
}
