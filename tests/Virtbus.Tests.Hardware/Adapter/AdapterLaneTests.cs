using Virtbus.Hardware.Adapter;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware.Adapter;

/// <summary>A function whose user does not answer for its memory, beside others of the same adapter.</summary>
public sealed class AdapterLaneTests : IDisposable
{
    private const ulong Remote = 0x4000_0000;
    private const ulong State = AdapterDriver.Free + 0x80000;
    private readonly AdapterFunction _function = AdapterDriver.Make(merlin: true, vfs: 2);
    private readonly SlowMemory _memory = new();
    private readonly AdapterDriver _physical;
    private readonly AdapterDriver _slow;
    private readonly AdapterDriver _other;

    public AdapterLaneTests()
    {
        _physical = new AdapterDriver(_function);
        _physical.Enable();
        var functions = AdapterDriver.EnableVirtual(_function, 2);
        (_slow, _other) = (new AdapterDriver(functions[0]), new AdapterDriver(functions[1]));
        _slow.Enable();
        _other.Enable();
        Assert.True(_slow.Space.TryMap(new IovaRange(new Iova(Remote), 0x10000), _memory, DmaAccess.ReadWrite, out _));
    }

    public void Dispose()
    {
        _memory.Answer();
        _slow.Dispose();
        _other.Dispose();
        _physical.Dispose();
        _function.Dispose();
        _memory.Dispose();
    }

    [Fact]
    public void Function_whose_user_does_not_answer_holds_up_no_other()
    {
        var (own, others) = (Ready(_physical), Ready(_other));
        Stick();
        for (var i = 60; i < 70; i++)
        {
            own.Send(AdapterFunctionTests.Frame(i));
            Assert.Equal(AdapterFunctionTests.Frame(i), others.Receive().Frame);
            others.Post(1);
        }
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.QueryFunction, 1).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.QueryGeneration, 1).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.SuspendFunction, 2, 0).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.ResumeFunction, 2).Status);
        Assert.Equal(Errno.None, _other.Do(AdapterOpcode.Nop).Status);
        Free();
    }

    [Fact]
    public void Frames_for_a_function_that_does_not_take_them_wait_and_then_are_lost_and_counted()
    {
        var (own, slow) = (Ready(_physical), Ready(_slow));
        Stick();
        const int Sent = 400;
        for (var i = 0u; i < Sent; i++)
        {
            own.Send(AdapterFunctionTests.Frame(64));
            Until(() => own.TransmitConsumer == i + 1);
        }
        Free();
        // Eight buffers were there.
        Until(() => slow.Dropped == Sent - 8);
        Assert.Equal(AdapterFunctionTests.Frame(64), slow.Receive().Frame);
    }

    [Fact]
    public void Commands_for_a_function_that_is_busy_are_answered_when_it_is_not_and_others_before()
    {
        Stick();
        _physical.Post(AdapterOpcode.SuspendFunction, 1, 0);
        _physical.Post(AdapterOpcode.SaveFunction, 1, State, 4096);
        _physical.Post(AdapterOpcode.QueryFunction, 1);
        Assert.Equal((2u, Errno.None), Answer());
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.Nop).Status);
        Free();
        Assert.Equal((0u, Errno.None), Answer());
        var saved = _physical.TakeEvent();
        Assert.Equal((1u, Errno.None), (saved.Tag, saved.Status));
        Assert.True(saved.First > 0);
        Assert.Equal(StateWriter.Magic, _physical.Word(State));
        Assert.Equal((ulong)AdapterStatus.Suspended, _slow.Read(AdapterRegister.Status) & AdapterStatus.Suspended);
    }

    [Fact]
    public void Answers_have_room_kept_in_the_event_ring()
    {
        Stick();
        // As many as the command ring holds, and the event ring twice that.
        for (var i = 0; i < 1 << AdapterDriver.CommandLog; i++)
            _physical.Post(AdapterOpcode.ResumeFunction, 1);
        _physical.WaitFor(AdapterRegister.CommandConsumer, ulong.MaxValue, 1 << AdapterDriver.CommandLog);
        for (var i = 0; i < 1 << AdapterDriver.CommandLog; i++)
            _physical.Post(AdapterOpcode.Nop);
        // Events nobody takes: the ring has room for the answers that are to come, and for no link event beside them.
        _physical.WaitFor(AdapterRegister.EventProducer, ulong.MaxValue, 1 << AdapterDriver.CommandLog);
        _function.Engine.SetLink(false);
        Free();
        _physical.WaitFor(AdapterRegister.EventProducer, ulong.MaxValue, 2 << AdapterDriver.CommandLog);
        var tags = new List<uint>();
        for (var i = 0; i < 2 << AdapterDriver.CommandLog; i++)
            tags.Add(Answer().Tag);
        Assert.Equal(Enumerable.Range(0, 2 << AdapterDriver.CommandLog), tags.Select(t => (int)t).Order());
        Assert.Equal(AdapterEventType.Link, _physical.TakeEvent().Type);
    }

    [Fact]
    public void Answer_of_before_a_reset_is_passed_over()
    {
        Stick();
        _physical.Post(AdapterOpcode.ResumeFunction, 1);
        _physical.WaitFor(AdapterRegister.CommandConsumer, ulong.MaxValue, 1);
        _physical.Disable();
        _physical.Enable();
        Free();
        // The virtual function has done it when it does the next one.
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.ResumeFunction, 1).Status);
        Assert.Equal(Errno.None, _physical.Do(AdapterOpcode.Nop).Status);
    }

    [Fact]
    public void Function_changes_its_thread_with_its_owner_and_starts_anew()
    {
        using var function = AdapterDriver.Make(merlin: false);
        var group = new IommuGroup(7);
        using var slot = new BareSlot(new DmaPort("bare", group));
        function.Plug(slot);
        var common = function.Engine.Common;
        Assert.Same(common, function.Unit.Lane);
        Assert.True(group.TryClaimForUser(this, "user", out _));
        var first = function.Unit.Lane;
        Assert.NotSame(common, first);
        group.ReleaseUser(this);
        Assert.Same(common, function.Unit.Lane);
        Assert.True(group.TryClaimForDriver("driver", out _));
        Assert.Same(common, function.Unit.Lane);
        group.ReleaseDriver("driver");
        Assert.True(group.TryClaimForUser(this, "user", out _));
        Assert.NotSame(common, function.Unit.Lane);
        Assert.NotSame(first, function.Unit.Lane);
        // Asked for from the old one, it goes to where it belongs.
        first.Enqueue(function.Unit);
        function.Unplug();
        Assert.Same(common, function.Unit.Lane);
        group.ReleaseUser(this);
    }

    [Fact]
    public void Owner_may_change_at_any_moment_of_traffic_commands_and_doorbells()
    {
        var own = Ready(_physical);
        for (var round = 0u; round < 200; round++)
        {
            var others = Ready(_other);
            using var doorbell = new EventFd();
            Assert.True(_other.Function.TryAttachDoorbell(_other.TransmitDoorbell(0), doorbell, out _));
            own.Send(AdapterFunctionTests.Frame(64));
            others.Send(AdapterFunctionTests.Frame(65));
            doorbell.Signal();
            _physical.Post(AdapterOpcode.SuspendFunction, 2, round % 2);
            _physical.Post(AdapterOpcode.ResumeFunction, 2);
            _other.ChangeOwner();
            Assert.Equal(Errno.None, Answer().Status);
            Assert.Equal(Errno.None, Answer().Status);
            Until(() => own.TransmitConsumer == round + 1);
            _other.Fill(AdapterDriver.Commands, 0x2000);
            _other.Enable();
        }
        var last = Ready(_other);
        own.Send(AdapterFunctionTests.Frame(70));
        Assert.Equal(AdapterFunctionTests.Frame(70), last.Receive().Frame);
    }

    private static AdapterQueues Ready(AdapterDriver rig)
    {
        var queues = rig.CreateQueues(0);
        queues.Post(8);
        return queues;
    }

    private static void Until(Func<bool> condition) => Assert.True(SpinWait.SpinUntil(condition, TimeSpan.FromSeconds(60)));

    private (uint Tag, Errno Status) Answer()
    {
        var answer = _physical.TakeEvent();
        Assert.Equal(AdapterEventType.CommandDone, answer.Type);
        return (answer.Tag, answer.Status);
    }

    // The function copies from memory that is not answered for.
    private void Stick()
    {
        _slow.Post(AdapterOpcode.Copy, 0, Remote, State, 64);
        _memory.WaitAsked();
    }

    private void Free()
    {
        _memory.Answer();
        AdapterEvent copied;
        do
            copied = _slow.TakeEvent();
        while (copied.Type != AdapterEventType.CommandDone);
        Assert.Equal(Errno.None, copied.Status);
    }

    /// <summary>Memory whose owner answers when it likes.</summary>
    private sealed class SlowMemory : IRemoteMemory, IDisposable
    {
        private readonly SemaphoreSlim _asked = new(0);
        private readonly ManualResetEventSlim _answers = new();

        public void WaitAsked() => Assert.True(_asked.Wait(TimeSpan.FromSeconds(60)), "nobody asks for the memory");

        public void Answer() => _answers.Set();

        public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
        {
            _asked.Release();
            var isAnswered = _answers.Wait(TimeSpan.FromSeconds(60));
            fault = isAnswered ? Fault.None : new Fault(Errno.ETIMEDOUT, "the test does not answer");
            return isAnswered;
        }

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
        {
            fault = Fault.None;
            return true;
        }

        public void Dispose()
        {
            _asked.Dispose();
            _answers.Dispose();
        }
    }

    /// <summary>A slot in which nothing is heard.</summary>
    private sealed class BareSlot(DmaPort dma) : IPciPort, IDisposable
    {
        public DmaPort Dma => dma;

        public void SendMessage(ulong address, uint data)
        {
        }

        public void SetInterruptLine(bool asserted)
        {
        }

        public void Dispose() => dma.LeaveGroup();
    }
}
