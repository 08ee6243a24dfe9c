using System.Text;
using Virtbus.Hardware.Adapter;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware.Adapter;

/// <summary>Virtual functions under the commands of their physical one: configure, suspend, save, load. PV-01, VS-04, migration.</summary>
public sealed class VirtualFunctionStateTests : IDisposable
{
    private const ulong State = AdapterDriver.Free + 0x80000;
    private readonly AdapterFunction _function = AdapterDriver.Make(merlin: true, vfs: 4);
    private readonly AdapterDriver _physical;

    public VirtualFunctionStateTests()
    {
        _physical = new AdapterDriver(_function);
        _physical.Enable();
    }

    public void Dispose()
    {
        _physical.Dispose();
        _function.Dispose();
    }

    [Fact]
    public void Virtual_function_is_configured_before_it_is_there_and_not_after()
    {
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SetFunction, 2, 0x0200000000AA, 3).Status);
        var functions = AdapterDriver.EnableVirtual(_function, 2);
        using var first = new AdapterDriver(functions[0]);
        using var second = new AdapterDriver(functions[1]);
        Assert.Equal(0x0200000000AAUL, second.Read(AdapterRegister.MacAddress));
        Assert.Equal(3UL, second.Read(AdapterRegister.Queues) & 0xFFFF);
        Assert.Equal(0x060000000010UL, first.Read(AdapterRegister.MacAddress));
        Assert.Equal(1UL, first.Read(AdapterRegister.Windows) >> 32);
        Assert.Equal(Errno.EBUSY, _physical.Do(AdapterOpcode.SetFunction, 2, 0x0200000000BB, 3).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SetFunction, 3, 0x0200000000BB, 3).Status);
        var answer = _physical.Do(AdapterOpcode.QueryFunction, 2);
        Assert.Equal((0x0200000000AAUL, 3UL | 1 << 16), (answer.First, answer.Second));
    }

    [Theory]
    [InlineData(AdapterOpcode.SetLink)]
    [InlineData(AdapterOpcode.QueryFunction)]
    [InlineData(AdapterOpcode.SetFunction)]
    [InlineData(AdapterOpcode.SuspendFunction)]
    [InlineData(AdapterOpcode.SaveFunction)]
    [InlineData(AdapterOpcode.LoadFunction)]
    [InlineData(AdapterOpcode.QueryGeneration)]
    public void Commands_of_the_physical_function_are_not_for_virtual_ones(object opcode)
    {
        using var rig = Virtual(1)[0];
        rig.Enable();
        Assert.Equal(Errno.EPERM, rig.Do((AdapterOpcode)opcode).Status);
    }

    [Fact]
    public void Frames_go_between_functions_and_each_uses_its_own_memory()
    {
        var rigs = Virtual(2);
        var queues = rigs.Select(r => Ready(r)).ToArray();
        var own = Ready(_physical);
        queues[0].Send(AdapterFunctionTests.Frame(90));
        Assert.Equal(AdapterFunctionTests.Frame(90), queues[1].Receive().Frame);
        Assert.Equal(AdapterFunctionTests.Frame(90), own.Receive().Frame);
        DisposeAll(rigs);
    }

    [Fact]
    public void Function_that_stands_still_does_no_dma_and_goes_on_where_it_was()
    {
        var rigs = Virtual(2);
        var (one, other) = (Ready(rigs[0]), Ready(rigs[1]));
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, 1, 0).Status);
        Assert.Equal((ulong)AdapterStatus.Suspended, rigs[0].Read(AdapterRegister.Status) & AdapterStatus.Suspended);
        rigs[0].Space.TryUnmap(new Memory.Dma.IovaRange(new Memory.Iova(AdapterDriver.Base), AdapterDriver.Size), out _, out _);
        one.Send(AdapterFunctionTests.Frame(64));
        rigs[0].Post(AdapterOpcode.Nop);
        other.Send(AdapterFunctionTests.Frame(65));
        // A later command of the kind is executed when all that has had its turn.
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, 1, 0).Status);
        other.Send(AdapterFunctionTests.Frame(66));
        Assert.True(SpinWait.SpinUntil(() => other.TransmitConsumer == 2, TimeSpan.FromSeconds(10)));
        Assert.Equal(0, rigs[0].Dma.Faults);

        Assert.True(rigs[0].Space.TryMap(new Memory.Iova(AdapterDriver.Base), AdapterDriver.Size, rigs[0].Memory, 0, Memory.DmaAccess.ReadWrite, out _));
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.ResumeFunction, 1).Status);
        Assert.Equal(AdapterFunctionTests.Frame(64), other.Receive().Frame);
        Assert.Equal(AdapterEventType.CommandDone, rigs[0].TakeEvent().Type);
        DisposeAll(rigs);
    }

    [Fact]
    public void Without_peer_access_a_function_sends_nothing_and_receives()
    {
        var rigs = Virtual(2);
        var (one, other) = (Ready(rigs[0]), Ready(rigs[1]));
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, 1, 1).Status);
        one.Send(AdapterFunctionTests.Frame(64));
        other.Send(AdapterFunctionTests.Frame(65));
        Assert.Equal(AdapterFunctionTests.Frame(65), one.Receive().Frame);
        Assert.Equal(Errno.None, rigs[0].Do(AdapterOpcode.Nop).Status);
        Assert.Equal(0u, one.TransmitConsumer);
        Assert.Equal(Errno.EBUSY, _physical.Do(AdapterOpcode.SaveFunction, 1, State, 4096).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.ResumeFunction, 1).Status);
        Assert.Equal(AdapterFunctionTests.Frame(64), other.Receive().Frame);
        DisposeAll(rigs);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void State_moves_under_traffic_to_the_byte_and_no_frame_is_lost_or_doubled(int seed)
    {
        // The source is function 0, the destination function 1, which has the same memory, as after a migration. Function 2 is the peer.
        var functions = AdapterDriver.EnableVirtual(_function, 3);
        using var source = new AdapterDriver(functions[0]);
        using var destination = new AdapterDriver(functions[1], source.Memory);
        using var peer = new AdapterDriver(functions[2]);
        source.Enable();
        var queues = source.CreateQueues(0);
        var sink = Ready(peer);
        var random = new Random(seed);
        var sent = 0;
        var before = random.Next(5, 12);
        for (; sent < before; sent++)
            queues.Send(Numbered(sent));
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, 1, 0).Status);
        // Sent while it stands still: the destination finds them in memory.
        for (; sent < before + 4; sent++)
            queues.Send(Numbered(sent));
        source.Post(AdapterOpcode.Nop);

        var saved = Save(0);
        Assert.Equal(saved, Save(0));
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, 2, 0).Status);
        Load(1, saved, Errno.None);
        Assert.Equal(saved, Save(1));
        source.ResetFunction();
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.ResumeFunction, 2).Status);

        for (var i = 0; i < sent; i++)
        {
            Assert.Equal(Numbered(i), sink.Receive().Frame);
            sink.Post(1);
        }
        // The command that was under way is answered; an interrupt that may have been lost is raised again.
        destination.WaitInterrupt(0);
        Assert.True(SpinWait.SpinUntil(() => queues.TransmitConsumer == (uint)sent, TimeSpan.FromSeconds(10)));
    }

    [Fact]
    public void Address_that_came_with_a_users_state_goes_with_the_user()
    {
        var functions = AdapterDriver.EnableVirtual(_function, 2);
        using var source = new AdapterDriver(functions[0]);
        using var destination = new AdapterDriver(functions[1], source.Memory);
        var (moved, own) = (source.Read(AdapterRegister.MacAddress), destination.Read(AdapterRegister.MacAddress));
        Assert.NotEqual(moved, own);
        _physical.Do(AdapterOpcode.SuspendFunction, 1, 0);
        _physical.Do(AdapterOpcode.SuspendFunction, 2, 0);
        Load(1, Save(0), Errno.None);
        Assert.Equal(moved, destination.Read(AdapterRegister.MacAddress));
        destination.ResetFunction();
        Assert.Equal(moved, destination.Read(AdapterRegister.MacAddress));
        destination.ChangeOwner();
        Assert.Equal(own, destination.Read(AdapterRegister.MacAddress));
        Assert.Equal(own, _physical.Do(AdapterOpcode.QueryFunction, 2).First);
    }

    [Fact]
    public void State_of_another_shape_is_refused_and_nothing_changes()
    {
        var rigs = Virtual(2);
        Ready(rigs[0]);
        Assert.Equal(Errno.EBUSY, _physical.Do(AdapterOpcode.SaveFunction, 1, State, 4096).Status);
        _physical.Do(AdapterOpcode.SuspendFunction, 1, 0);
        var saved = Save(0);
        Assert.Equal(Errno.ENOSPC, _physical.Do(AdapterOpcode.SaveFunction, 1, State, (ulong)saved.Length - 1).Status);
        Assert.Equal(Errno.EFAULT, _physical.Do(AdapterOpcode.SaveFunction, 1, 0x40, 4096).Status);
        Load(1, saved, Errno.EBUSY);
        _physical.Do(AdapterOpcode.SuspendFunction, 2, 0);
        var untouched = Save(1);
        Load(1, saved[..^1], Errno.EINVAL);
        Load(1, [.. saved, 0], Errno.EINVAL);
        Load(1, [], Errno.EINVAL);
        Load(1, new byte[FunctionImage.MaxSize], Errno.EINVAL);
        // Magic, form, number of sections, length; the make; a queue set's number, vector and sizes; its ring's alignment.
        var kind = ContentOf(saved, FunctionImage.IdentitySection);
        var set = ContentOf(saved, FunctionImage.QueueSetsSection);
        foreach (var at in new[] { 0, 4, 6, 8, kind, kind + 2, set, set + 2, set + 4, set + 5, set + 8 })
        {
            var wrong = (byte[])saved.Clone();
            wrong[at] ^= 0x7F;
            Load(1, wrong, Errno.EINVAL);
        }
        Assert.Equal(Errno.EINVAL, _physical.Do(AdapterOpcode.LoadFunction, 2, State, ulong.MaxValue).Status);
        Assert.Equal(untouched, Save(1));
        DisposeAll(rigs);
    }

    // Of a function with a station address.
    private static byte[] Registers()
    {
        var registers = new byte[96];
        registers[5] = 0x02;
        return registers;
    }

    [Fact]
    public void Refusal_names_the_section_and_its_version_and_nothing_changes()
    {
        var rigs = Virtual(2);
        Ready(rigs[0]);
        _physical.Do(AdapterOpcode.SuspendFunction, 1, 0);
        _physical.Do(AdapterOpcode.SuspendFunction, 2, 0);
        var untouched = Save(1);
        (Action<StateWriter> Change, string Reason)[] cases =
        [
            (w => w.Add("weather", 3, [1]), "section 'weather', version 3, is not known here"),
            (w => w.Add(FunctionImage.RegistersSection, 2, new byte[96]), "section 'adapter-registers' is of version 2; versions up to 1 are read"),
            (w => w.Add(FunctionImage.RegistersSection, 1, new byte[95]), "section 'adapter-registers', version 1, has 95 bytes instead of 96"),
            (w => w.Add(FunctionImage.QueueSetsSection, 1, new byte[47]), "section 'adapter-queue-sets', version 1, has a queue set that this function can't have"),
            (w => w.Add(FunctionImage.IdentitySection, 1, [1, 0, 0, 0]), "section 'adapter' says that the state is of a function 0001; this one is 1002"),
        ];
        foreach (var (change, reason) in cases)
        {
            var writer = new StateWriter();
            change(writer);
            // What the case did not write stays as it is right.
            foreach (var (name, content) in new[] { (FunctionImage.IdentitySection, new byte[] { 2, 0x10, 0, 0 }), (FunctionImage.RegistersSection, Registers()), (FunctionImage.QueueSetsSection, []) })
            {
                if (!Has(writer, name))
                    writer.Add(name, 1, content);
            }
            Assert.Equal(reason, Refused(writer.ToArray()));
        }
        // One that may be left out is.
        var optional = new StateWriter();
        optional.Add("weather", 3, [1], isOptional: true);
        optional.Add(FunctionImage.IdentitySection, 1, [2, 0x10, 0, 0]);
        optional.Add(FunctionImage.QueueSetsSection, 1, []);
        Assert.Equal("section 'adapter-registers' is missing", Refused(optional.ToArray()));
        Assert.Equal(untouched, Save(1));
        optional.Add(FunctionImage.RegistersSection, 1, Registers());
        Load(1, optional.ToArray(), Errno.None);

        // What older versions wrote.
        Assert.Equal(
            "the state is of the form without sections, which older versions wrote and this one does not read",
            Refused([(byte)'V', (byte)'V', (byte)'F', (byte)'S', .. new byte[108]]));
        DisposeAll(rigs);

        static bool Has(StateWriter writer, string name) =>
            StateReader.TryRead(writer.ToArray(), 4096, out var reader, out _) && reader.TryTakeIfThere(name, ushort.MaxValue, 0, 4096, out var found, out _) && found is not null;
    }

    [Fact]
    public void Queue_set_that_comes_twice_or_out_of_order_is_refused_and_nothing_changes()
    {
        const string Reason = "section 'adapter-queue-sets', version 1, has a queue set that this function can't have";
        var rigs = Virtual(2);
        Ready(rigs[0]);
        rigs[0].CreateQueues(1);
        _physical.Do(AdapterOpcode.SuspendFunction, 1, 0);
        _physical.Do(AdapterOpcode.SuspendFunction, 2, 0);
        var saved = Save(0);
        var registers = saved.AsSpan(ContentOf(saved, FunctionImage.RegistersSection), 96).ToArray();
        var sets = ContentOf(saved, FunctionImage.QueueSetsSection);
        var (first, second) = (saved[sets..(sets + 48)], saved[(sets + 48)..(sets + 96)]);
        var untouched = Save(1);
        Assert.Equal(Reason, Refused(Image([.. first, .. first])));
        Assert.Equal(Reason, Refused(Image([.. first, .. second, .. second])));
        Assert.Equal(Reason, Refused(Image([.. second, .. first])));
        Assert.Equal(untouched, Save(1));
        Load(1, Image([.. first, .. second]), Errno.None);
        Assert.Equal(saved, Save(1));
        DisposeAll(rigs);

        byte[] Image(byte[] queueSets)
        {
            var writer = new StateWriter();
            writer.Add(FunctionImage.IdentitySection, 1, [2, 0x10, 0, 0]);
            writer.Add(FunctionImage.RegistersSection, 1, registers);
            writer.Add(FunctionImage.QueueSetsSection, 1, queueSets);
            return writer.ToArray();
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Mutated_states_never_break_the_adapter(int seed)
    {
        var rigs = Virtual(2);
        Ready(rigs[0]);
        _physical.Do(AdapterOpcode.SuspendFunction, 1, 0);
        var saved = Save(0);
        var random = new Random(seed);
        var taken = 0;
        for (var i = 0; i < 2000; i++)
        {
            var mutated = (byte[])saved.Clone();
            for (var n = random.Next(1, 4); n > 0; n--)
                mutated[random.Next(mutated.Length)] = (byte)random.Next(256);
            _physical.Do(AdapterOpcode.SuspendFunction, 2, 0);
            _physical.WriteMemory(State, mutated);
            var status = _physical.Do(AdapterOpcode.LoadFunction, 2, State, (ulong)mutated.Length).Status;
            Assert.True(status is Errno.None or Errno.EINVAL);
            if (status == Errno.None)
            {
                taken++;
                Assert.Equal(mutated.Length, Save(1).Length);
            }
            _physical.Do(AdapterOpcode.ResumeFunction, 2);
        }
        Assert.InRange(taken, 1, 1999);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.Nop).Status);
        DisposeAll(rigs);
    }

    [Fact]
    public void Generation_changes_with_the_state_and_only_then()
    {
        var rigs = Virtual(2);
        var (one, other) = (Ready(rigs[0]), Ready(rigs[1]));
        other.Send(AdapterFunctionTests.Frame(60));
        one.Receive();
        _physical.Do(AdapterOpcode.Nop);
        var first = Generation(0);
        Assert.Equal(first, Generation(0));
        other.Send(AdapterFunctionTests.Frame(60));
        one.Receive();
        _physical.Do(AdapterOpcode.Nop);
        var second = Generation(0);
        Assert.NotEqual(first, second);
        rigs[0].Write(AdapterRegister.CommandBase, 0);
        Assert.NotEqual(second, Generation(0));
        DisposeAll(rigs);
    }

    [Fact]
    public void Reset_of_a_suspended_function_lets_it_run()
    {
        var rig = Virtual(1)[0];
        Ready(rig);
        _physical.Do(AdapterOpcode.SuspendFunction, 1, 0);
        rig.ResetFunction();
        rig.SetMaster(true);
        rig.EnableInterrupts();
        rig.Fill(AdapterDriver.Commands, 0x2000);
        rig.Enable();
        Assert.Equal(Errno.None, rig.Do(AdapterOpcode.Nop).Status);
        rig.Dispose();
    }

    [Fact]
    public void Reset_of_the_physical_function_takes_the_virtual_ones_away_and_their_profiles()
    {
        _physical.Do(AdapterOpcode.SetFunction, 1, 0x0200000000AA, 3);
        using var rig = Virtual(1)[0];
        Ready(rig);
        _physical.ResetFunction();
        Assert.Empty(_function.VirtualFunctions);
        Assert.False(rig.Function.IsPresent);
        Assert.Equal(0, _function.Engine.QueueSetCount);
        _physical.SetMaster(true);
        _physical.EnableInterrupts();
        _physical.Fill(AdapterDriver.Commands, 0x2000);
        _physical.Enable();
        Assert.Equal(0x060000000010UL, _physical.Do(AdapterOpcode.QueryFunction, 1).First);
    }

    [Fact]
    public async Task Functions_come_go_and_are_reset_beside_others_that_carry_traffic()
    {
        var functions = AdapterDriver.EnableVirtual(_function, 4);
        using var from = new AdapterDriver(functions[0]);
        using var to = new AdapterDriver(functions[1]);
        var (sender, receiver) = (Ready(from), Ready(to));
        using var stop = new CancellationTokenSource();
        // As long as there is traffic, on a host that has the time.
        bool GoesOn(int round) => round < 50 || (round < 300 && !stop.IsCancellationRequested);
        // To themselves, so that they take nobody's buffers.
        var own = AdapterFunctionTests.Frame(64);
        own.AsSpan(6, 6).CopyTo(own);
        var resets = Task.Run(() =>
        {
            using var rig = new AdapterDriver(functions[2]);
            for (var i = 0; GoesOn(i); i++)
            {
                Ready(rig).Send(own);
                rig.ResetFunction();
                rig.SetMaster(true);
                rig.EnableInterrupts();
                rig.Fill(AdapterDriver.Commands, 0x2000);
            }
        });
        var plugs = Task.Run(() =>
        {
            for (var i = 0; GoesOn(i); i++)
            {
                using var rig = new AdapterDriver(functions[3]);
                Ready(rig).Send(own);
            }
        });
        var commands = Task.Run(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, 3, 0).Status);
                Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.ResumeFunction, 3).Status);
            }
        });
        for (var i = 0; i < 2000; i++)
        {
            sender.Send(Numbered(i));
            Assert.Equal(Numbered(i), receiver.Receive().Frame);
            receiver.Post(1);
        }
        await stop.CancelAsync();
        await Task.WhenAll(resets, plugs, commands).EndsAsync("resets, plugs and commands");
        Assert.Equal(0u, sender.Error);
        Assert.Equal(0u, receiver.Error);
    }

    private static byte[] Numbered(int number)
    {
        var frame = AdapterFunctionTests.Frame(80);
        frame[20] = (byte)number;
        return frame;
    }

    private static AdapterQueues Ready(AdapterDriver rig)
    {
        rig.Enable();
        var queues = rig.CreateQueues(0);
        queues.Post(16);
        return queues;
    }

    private static void DisposeAll(AdapterDriver[] rigs)
    {
        foreach (var rig in rigs)
            rig.Dispose();
    }

    private AdapterDriver[] Virtual(int count) => [.. AdapterDriver.EnableVirtual(_function, count).Select(f => new AdapterDriver(f))];

    private ulong Generation(int vf) => _physical.Do(AdapterOpcode.QueryGeneration, FunctionIdentity.OfVirtual(vf)).First;

    private byte[] Save(int vf)
    {
        var answer = _physical.Do(AdapterOpcode.SaveFunction, FunctionIdentity.OfVirtual(vf), State, 4096);
        Assert.Equal(Errno.None, answer.Status);
        return _physical.ReadMemory(State, (int)answer.First);
    }

    // Where the content of a section begins.
    private static int ContentOf(byte[] state, string name) => state.AsSpan().IndexOf(Encoding.ASCII.GetBytes(name)) + name.Length;

    // Why the second virtual function does not take a state.
    private string Refused(byte[] state)
    {
        _physical.WriteMemory(State, state);
        var answer = _physical.Do(AdapterOpcode.LoadFunction, 2, State, (ulong)state.Length, State + 0x2000, 256);
        Assert.Equal(Errno.EINVAL, answer.Status);
        return Encoding.ASCII.GetString(_physical.ReadMemory(State + 0x2000, (int)answer.First));
    }

    private void Load(int vf, byte[] state, Errno expected)
    {
        _physical.WriteMemory(State, state);
        Assert.Equal(expected, _physical.Do(AdapterOpcode.LoadFunction, FunctionIdentity.OfVirtual(vf), State, (ulong)state.Length).Status);
    }
}
