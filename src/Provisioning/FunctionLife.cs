using Virtbus.Core;
using Virtbus.Platform;
using static Virtbus.Provisioning.ProvisionedFunction;

namespace Virtbus.Provisioning;

/// <summary>
/// What is done with functions over time, by their providers: they are activated, changed and taken away, and those that were active return. Each is
/// begun and ended under the book's lock, and marks its functions meanwhile, so that one thing is done with a function at a time.
/// </summary>
internal sealed class FunctionLife(Fabric fabric, DefinitionBook book)
{
    private const int NamesInLine = 4;
    private readonly TaskCompletionSource _closed = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>On this thread: what waits for it goes on by the fabric's scheduler.</summary>
    public static void Cancel(IEnumerable<CancellationTokenSource> all)
    {
        foreach (var one in all)
            one.Cancel();
    }

    /// <summary>What failed when some of several were done.</summary>
    public static VirtbusException Partly(VirtbusException error, string what, IReadOnlyCollection<ProvisionedFunction> done, IReadOnlyCollection<ProvisionedFunction> left) => new(
        error.Errno, $"{error.Message} {(done.Count == 0 ? "None of them is" : $"{string.Join(", ", done)} {(done.Count == 1 ? "is" : "are")}")} {what}; {string.Join(", ", left)} {(left.Count == 1 ? "is" : "are")} as before.", error);

    public async ValueTask SetAsync(string name, IReadOnlyCollection<KeyValuePair<string, string>> values)
    {
        ProvisionedFunction function;
        FunctionProfile before, after;
        FunctionProvider provider;
        Device? device;
        lock (book.Lock)
        {
            function = book.Get(name);
            (provider, before) = function.Ready();
            after = before.With(values);
            provider.Check(after);
            device = function.Device;
            if (device is null)
            {
                book.Change([(function, function.Now with { Profile = after })]);
                return;
            }

            if (provider.Fields.FirstOrDefault(f => f.Change == FieldChange.BeforeActivation && before.Text(f) != after.Text(f)) is { } field)
            {
                throw new VirtbusException(
                    Errno.EBUSY, $"Function '{name}' is active, and its {field.Name} can change only before that. Deactivate it first: virtbus function deactivate {name}");
            }

            function.Begin(Work.Changing);
        }

        try
        {
            await provider.ChangeAsync(before, after, device);
            await KeepChangeAsync(function, provider, before, after, device);
        }
        finally
        {
            End([function]);
        }
    }

    /// <param name="choose">Those that are to be active; called under the lock.</param>
    /// <param name="cancellationToken">Ends it.</param>
    public async ValueTask ActivateAsync(Func<IEnumerable<ProvisionedFunction>> choose, CancellationToken cancellationToken)
    {
        // Not disposed: whoever deactivates a function cancels it outside the lock.
        var cancel = new CancellationTokenSource();
        await using var given = cancellationToken.Register(cancel.Cancel);
        List<ProvisionedFunction> functions;
        List<IGrouping<FunctionProvider, ProvisionedFunction>> groups;
        lock (book.Lock)
        {
            functions = [.. choose()];
            foreach (var function in functions)
                function.ThrowUnlessReady();
            groups = [.. functions.GroupBy(static f => f.Now.Provider!)];
            foreach (var function in functions)
            {
                function.Begin(Work.Activating);
                function.Cancel = cancel;
            }
        }

        var made = new List<Made>();
        try
        {
            foreach (var group in groups)
            {
                // One by one where they come so: each is known as soon as it is there, to who takes it back or sends its user away.
                foreach (var part in group.Key.ComesTogether ? [[.. group]] : group.Select(static f => new List<ProvisionedFunction> { f }))
                {
                    // Whoever deactivated one meanwhile, or removed a provider, ended it all.
                    cancel.Token.ThrowIfCancellationRequested();
                    await MakeAsync(group.Key, part, made, cancel.Token);
                }
            }

            Keep(made);
        }
        catch (Exception e)
        {
            var left = await TakeBackAsync(made);
            if (e is not OperationCanceledException)
                NoteFailure(functions, e.Message);
            var why = e;
            if (e is OperationCanceledException && !cancellationToken.IsCancellationRequested)
                why = new VirtbusException(Errno.ECANCELED, $"The activation of {string.Join(", ", functions)} was cancelled. Activate it again to have it.", e);
            if (left is not null)
                throw new VirtbusException((why as VirtbusException)?.Errno ?? Errno.ECANCELED, $"{why.Message} What had been made before could not be taken back: {left.Message}", e);
            if (why != e)
                throw why;
            throw;
        }
        finally
        {
            End(functions);
        }
    }

    // Whoever asks what became of one that was to come back is told.
    private void NoteFailure(List<ProvisionedFunction> functions, string why)
    {
        lock (book.Lock)
        {
            foreach (var function in functions.Where(static f => f is { IsLost: false, Now.IsWanted: true, IsActive: false }))
                function.Now = function.Now with { Failure = why };
        }
    }

    /// <summary>The fabric goes down: what is being activated is cancelled, and nothing comes back any more.</summary>
    public void Close()
    {
        _closed.TrySetResult();
        List<CancellationTokenSource> going;
        lock (book.Lock)
            going = [.. book.All.Select(static f => f.Cancel).OfType<CancellationTokenSource>()];
        Cancel(going);
    }

    public async ValueTask DeactivateAsync(IReadOnlyList<string> names, CancellationToken cancellationToken)
    {
        List<ProvisionedFunction> active, forgotten;
        // Whatever became of the activation that was cancelled, it is deactivated.
        HashSet<ProvisionedFunction> cancelled = [];
        while (TryBeginDraining(names, cancelled, out active, out forgotten) is { } going)
        {
            Cancel([going.Cancel]);
            await going.Done;
        }

        VirtbusException? error = null;
        try
        {
            foreach (var function in forgotten)
                function.Now.Provider?.Forget(function.Name);
            // At the end nobody waits for users. Who gives the wait up leaves all as it was.
            await Task.WhenAny(Task.WhenAll(active.SelectMany(static f => f.UsersLeft)), _closed.Task).WaitAsync(cancellationToken);
            foreach (var group in active.GroupBy(static f => f.Now.Provider).Reverse())
            {
                try
                {
                    await TakeAwayAsync(group.Key, [.. group]);
                }
                catch (VirtbusException e)
                {
                    error ??= e;
                }
            }
        }
        finally
        {
            lock (book.Lock)
            {
                foreach (var function in active)
                {
                    // What could not be taken away is there as before.
                    if (function.IsActive)
                        book.Note(function, function.Now with { IsWanted = true });
                    else if (function.HasProvider)
                        function.Now = function.Now with { Device = null };
                }
            }

            End(active);
        }

        if (error is not null && active.Count + forgotten.Count > 1)
            throw Partly(error, "deactivated", [.. forgotten, .. active.Where(static f => !f.IsActive)], active.FindAll(static f => f.IsActive));
        if (error is not null)
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error);
    }

    /// <summary>Refuses what <see cref="DeactivateAsync"/> refuses before it does anything.</summary>
    public void CheckDeactivation(IReadOnlyList<string> names)
    {
        lock (book.Lock)
            FindLeaving(names, []);
    }

    /// <summary>Activates those that a provider had and should have again, beside the caller.</summary>
    public void Return(FunctionProvider provider) => Return(provider, book.All);

    /// <summary>Of some functions.</summary>
    public void Return(FunctionProvider provider, IReadOnlyList<ProvisionedFunction> functions)
    {
        List<ProvisionedFunction> wanted;
        lock (book.Lock)
        {
            // Those that are kept and were active when the program ended have no device yet, and come in any case.
            wanted = [.. functions.Where(f => f.Now.Provider == provider && (provider.Returns || f.Now.Device is null) && IsFree(f))];
        }

        Start(provider, wanted);
    }

    // What is activated, changed or taken away just now is looked at again when that has ended.
    private static bool IsFree(ProvisionedFunction function)
    {
        function.IsPassedOver |= function.Now.Work != Work.None;
        return function.IsMissing;
    }

    private static async ValueTask TakeAwayAsync(FunctionProvider? provider, List<ProvisionedFunction> functions)
    {
        if (provider is not null && There(provider, functions) is { Count: > 0 } there)
            await provider.DeactivateAsync(there);
    }

    // Null when all that is to be deactivated is marked so; else an activation that has to end first.
    private (CancellationTokenSource Cancel, Task Done)? TryBeginDraining(
        IReadOnlyList<string> names, HashSet<ProvisionedFunction> cancelled, out List<ProvisionedFunction> active, out List<ProvisionedFunction> forgotten)
    {
        active = [];
        forgotten = [];
        lock (book.Lock)
        {
            var functions = FindLeaving(names, cancelled);
            if (functions.Find(static f => f.Now.Work == Work.Activating) is { Cancel: { } cancel, Done: { } done } going)
            {
                cancelled.Add(going);
                return (cancel, done.Task);
            }

            book.Change(functions.ConvertAll(static f => (f, f.Now with { IsWanted = false, Failure = null })));
            foreach (var function in functions)
                function.IsWantedWhenTaken = false;
            active = functions.FindAll(static f => f.IsActive);
            forgotten = [.. functions.Except(active)];
            foreach (var function in active)
                function.Begin(Work.Draining);
            return null;
        }
    }

    // Those that are to be deactivated, when nothing says by now that they can't.
    private List<ProvisionedFunction> FindLeaving(IReadOnlyList<string> names, HashSet<ProvisionedFunction> cancelled)
    {
        // One that was only being made may be forgotten with the activation that was cancelled.
        List<ProvisionedFunction> functions = [.. names.Distinct().Where(n => !cancelled.Any(c => c.IsForgotten && c.Name == n)).Select(book.Get)];
        foreach (var function in functions.Where(static f => f.Now.Work != Work.Activating))
        {
            function.ThrowIfBusy();
            if (!function.Now.IsWanted && !function.IsWantedWhenTaken && !function.IsActive && !cancelled.Contains(function))
                throw new VirtbusException(Errno.EINVAL, $"Function '{function.Name}' is not active, so it can't be deactivated. 'virtbus function list' shows what is.");
        }

        foreach (var group in functions.Where(static f => f.IsActive).GroupBy(static f => f.Now.Provider))
            group.Key?.CheckDeactivation(There(group.Key, group));
        return functions;
    }

    // Without those that went with their provider meanwhile, or by themselves.
    private static List<(FunctionProfile Profile, Device Device)> There(FunctionProvider provider, IEnumerable<ProvisionedFunction> functions) =>
        [.. functions.Where(f => f.Now.Provider == provider && f.IsActive).Select(static f => (f.Now.Profile!, f.Device!))];

    private async ValueTask MakeAsync(FunctionProvider provider, List<ProvisionedFunction> functions, List<Made> made, CancellationToken cancellationToken)
    {
        var profiles = functions.ConvertAll(static f => f.Now.Profile!);
        var devices = await provider.ActivateAsync(functions.ConvertAll(static f => f.Now.Profile!.At(f.Now.Place)), cancellationToken);
        lock (book.Lock)
        {
            ThrowIfLost(functions);
            for (var i = 0; i < functions.Count; i++)
            {
                var (function, device) = (functions[i], devices[i]);
                made.Add(new Made(function, provider, device, function.Now.Device, provider.PlaceOf(device)));
                // By another way it may have come, and gone, as something else meanwhile.
                function.Now = function.Now with { Device = device, Profile = profiles[i] };
            }
        }
    }

    // From here on it is active for good.
    private void Keep(List<Made> made)
    {
        lock (book.Lock)
        {
            ThrowIfLost(made.ConvertAll(static m => m.Function));
            // By another way it may have gone since.
            book.Change([.. made.Where(static m => m.Function.Now.Device == m.Device)
                .Select(static m => (m.Function, m.Function.Now with { IsWanted = true, Place = m.Place }))]);
        }
    }

    // Removed providers take what they make down by themselves.
    private static void ThrowIfLost(List<ProvisionedFunction> functions)
    {
        if (functions.Exists(static f => f.IsLost))
            throw new VirtbusException(Errno.ENODEV, $"What makes {string.Join(", ", functions)} went away meanwhile. Bind its driver again.");
    }

    // What was made before something failed; why it could not be taken back, or null.
    private async ValueTask<Exception?> TakeBackAsync(List<Made> made)
    {
        Exception? error = null;
        foreach (var group in made.GroupBy(static m => m.Provider).Reverse())
        {
            try
            {
                await TakeAwayAsync(group.Key, [.. group.Where(static m => m.Function.Now.Device == m.Device).Select(static m => m.Function)]);
            }
            catch (Exception e)
            {
                error ??= e;
            }
        }

        lock (book.Lock)
        {
            foreach (var (function, _, device, before, place) in made)
            {
                if (function.Now.Device != device)
                    continue;
                if (function.IsActive)
                    book.Note(function, function.Now with { IsWanted = true, Place = place });
                else
                    function.Now = function.Now with { Device = before };
            }
        }

        return error;
    }

    // The provider has carried it out; what can't be kept is changed back.
    private async ValueTask KeepChangeAsync(ProvisionedFunction function, FunctionProvider provider, FunctionProfile before, FunctionProfile after, Device device)
    {
        try
        {
            lock (book.Lock)
                book.Change([(function, function.Now with { Profile = after })]);
        }
        catch
        {
            try
            {
                if (!function.IsLost)
                    await provider.ChangeAsync(after, before, device);
            }
            catch (VirtbusException)
            {
                // It is changed then, and the store learns of it when it can.
                lock (book.Lock)
                    book.Note(function, function.Now with { Profile = after });
            }

            throw;
        }
    }

    private void End(List<ProvisionedFunction> functions)
    {
        List<(FunctionProvider Provider, ProvisionedFunction Function)> back = [];
        lock (book.Lock)
        {
            foreach (var function in functions)
            {
                function.End();
                if (function is { IsMissing: true, Now: { Provider: { } provider } now } && (function.IsLost || function.IsPassedOver) && (provider.Returns || now.Device is null))
                    back.Add((provider, function));
            }
        }

        // Those alone: what others failed at is not begun again by this.
        foreach (var group in back.GroupBy(static b => b.Provider, static b => b.Function))
            Start(group.Key, [.. group]);
    }

    private void Start(FunctionProvider provider, List<ProvisionedFunction> functions)
    {
        if (_closed.Task.IsCompleted)
            return;
        foreach (var set in provider.ComesTogether && functions.Count > 0 ? [functions] : functions.ConvertAll(static f => new List<ProvisionedFunction> { f }))
        {
            // Without those that were deactivated or undefined meanwhile, or activated by somebody.
            fabric.StartWork(
                $"return of {Names(set)}",
                async () =>
                {
                    try
                    {
                        await ActivateAsync(() => set.Where(f => f.Now.Provider == provider && IsFree(f)), default);
                    }
                    catch (VirtbusException e) when (e.Errno != Errno.ECANCELED)
                    {
                        // Also what was not begun, since something is not set any more.
                        NoteFailure(set.FindAll(static f => f is { IsIdle: true, Now.Failure: null }), e.Message);
                        throw;
                    }
                });
        }
    }

    private static string Names(List<ProvisionedFunction> functions) =>
        string.Join(", ", functions.Take(NamesInLine)) + (functions.Count > NamesInLine ? $" and {functions.Count - NamesInLine} more" : "");

    private sealed record Made(ProvisionedFunction Function, FunctionProvider Provider, Device Device, Device? Before, string? Place);
}
