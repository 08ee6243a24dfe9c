using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core.Modules;

/// <summary>A module is code of the program: what others can write is not loaded.</summary>
public sealed class ModuleTrustTests : IDisposable
{
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;
    private readonly ModuleFolder _folder = new();
    private readonly RecordedLog _lines = new();
    private readonly Fabric _fabric;

    public ModuleTrustTests()
    {
        _fabric = new Fabric(new FabricOptions { LoggerFactory = _lines });
        _fabric.RegisterBus(new AuxiliaryBus());
    }

    public void Dispose()
    {
        File.SetUnixFileMode(_folder.Path, Private);
        _folder.Dispose();
    }

    [Theory]
    [InlineData(UnixFileMode.OtherWrite, "703")]
    // In a sticky folder others can't take a file away, but put one in.
    [InlineData(UnixFileMode.OtherWrite | UnixFileMode.StickyBit, "1703")]
    public void Folder_that_everybody_can_write_is_refused_with_its_name_and_the_remedy(UnixFileMode more, string mode)
    {
        _folder.Make("trusting");
        File.SetUnixFileMode(_folder.Path, Private | UnixFileMode.OtherExecute | more);
        var e = Expect.Refused(Errno.EPERM, () => new ModuleLoader(_fabric, _folder.Path, watch: false).Dispose());
        Assert.Equal($"Modules folder {_folder.Path} is not used, since a module is code of this program: {_folder.Path} has mode {mode}, so every user can change it. Use: chmod go-w {_folder.Path}", e.Message);
        var index = ModuleIndex.Read(_folder.Path);
        Assert.Empty(index.Modules);
        Assert.Equal(_folder.Path, Assert.Single(index.Skipped).Path);
    }

    [Fact]
    public async Task Folder_that_becomes_writable_for_others_gives_no_module_any_more()
    {
        _folder.Make("once");
        _folder.Make("late");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        await loader.LoadAsync("once");
        File.SetUnixFileMode(_folder.Path, Private | UnixFileMode.OtherWrite);
        // What the index knew from before is looked at again before its code runs.
        var e = await Expect.RefusedAsync(Errno.EPERM, () => new ValueTask(loader.LoadAsync("late")));
        Assert.StartsWith($"{_folder.File("late.dll")} is not loaded, since a module is code of this program: {_folder.Path} has mode 702, ", e.Message, StringComparison.Ordinal);
        await loader.RescanAsync().In();
        await Expect.RefusedAsync(Errno.ENOENT, () => new ValueTask(loader.LoadAsync("late")));
        Assert.Equal(["once"], loader.Loaded.Select(m => m.Info.Name));
        Assert.Contains(_lines.Lines, l => l.StartsWith($"Warning Module file {_folder.Path} skipped: {_folder.Path} has mode 702, ", StringComparison.Ordinal));
        Assert.DoesNotContain("late", ModuleHooks.Ran.Keys);
    }

    [Fact]
    public async Task File_that_everybody_can_write_is_skipped_and_the_others_are_there()
    {
        _folder.Make("good");
        _folder.Make("open_to_all");
        File.SetUnixFileMode(_folder.File("open_to_all.dll"), UnixFileMode.UserRead | UnixFileMode.OtherWrite);
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        Assert.Equal(["good"], loader.Index.Modules.Select(m => m.Name));
        var reason = $"{_folder.File("open_to_all.dll")} has mode 402, so every user can change it. Use: chmod go-w {_folder.File("open_to_all.dll")}";
        Assert.Equal(reason, Assert.Single(loader.Index.Skipped).Reason);
        var e = await Expect.RefusedAsync(Errno.EINVAL, () => new ValueTask(loader.LoadAsync("open-to-all")));
        Assert.Equal($"Module 'open-to-all' can't be used, {_folder.File("open_to_all.dll")}: {reason}", e.Message);
    }

    [Fact]
    public void Folder_below_one_that_everybody_can_write_is_refused_and_below_a_sticky_one_it_is_not()
    {
        var above = Directory.CreateDirectory(Path.Combine(_folder.Path, "above")).FullName;
        var modules = Directory.CreateDirectory(Path.Combine(above, "deep", "modules")).FullName;
        File.SetUnixFileMode(above, Private | UnixFileMode.OtherWrite);
        var e = Expect.Refused(Errno.EPERM, () => new ModuleLoader(_fabric, modules, watch: false).Dispose());
        Assert.EndsWith($"{above} has mode 702, so every user can change it. Use: chmod go-w {above}", e.Message, StringComparison.Ordinal);
        File.SetUnixFileMode(above, Private | UnixFileMode.OtherWrite | UnixFileMode.StickyBit);
        new ModuleLoader(_fabric, modules, watch: false).Dispose();

        // A link is followed, and the way to where it points counts as well.
        File.SetUnixFileMode(above, Private | UnixFileMode.OtherWrite);
        var link = Path.Combine(_folder.Path, "link");
        Directory.CreateSymbolicLink(link, modules);
        e = Expect.Refused(Errno.EPERM, () => new ModuleLoader(_fabric, link, watch: false).Dispose());
        Assert.EndsWith($"{above} has mode 702, so every user can change it. Use: chmod go-w {above}", e.Message, StringComparison.Ordinal);
        File.SetUnixFileMode(above, Private);
        new ModuleLoader(_fabric, link, watch: false).Dispose();
    }

    [Fact]
    public void Linked_file_that_everybody_can_write_is_skipped()
    {
        _folder.Make("target");
        var there = Directory.CreateDirectory(Path.Combine(_folder.Path, "there")).FullName;
        File.Move(_folder.File("target.dll"), Path.Combine(there, "target.dll"));
        File.CreateSymbolicLink(_folder.File("target.dll"), "there/target.dll");
        Assert.Equal(["target"], ModuleIndex.Read(_folder.Path).Modules.Select(m => m.Name));
        File.SetUnixFileMode(there, Private | UnixFileMode.OtherWrite);
        var skipped = Assert.Single(ModuleIndex.Read(_folder.Path).Skipped);
        Assert.Equal((_folder.File("target.dll"), $"{there} has mode 702, so every user can change it. Use: chmod go-w {there}"), (skipped.Path, skipped.Reason));
    }

    [Fact]
    public async Task Companion_that_everybody_can_write_is_not_loaded()
    {
        _folder.Make("with_companion", references: ["Some.Library"]);
        var companions = Directory.CreateDirectory(_folder.File("with_companion")).FullName;
        var companion = Path.Combine(companions, "Some.Library.dll");
        _folder.Make("Some.Library", declares: false);
        File.Move(_folder.File("Some.Library.dll"), companion);
        File.SetUnixFileMode(companion, UnixFileMode.UserRead | UnixFileMode.OtherWrite);
        ModuleHooks.On("with_companion", context =>
        {
            System.Runtime.Loader.AssemblyLoadContext.All.Single(c => c.Name == context.Name).LoadFromAssemblyName(new System.Reflection.AssemblyName("Some.Library"));
            return default;
        });
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        await Expect.RefusedAsync(Errno.EINVAL, () => new ValueTask(loader.LoadAsync("with_companion")));
        Assert.Empty(loader.Loaded);
        File.SetUnixFileMode(companion, UnixFileMode.UserRead);
        await loader.LoadAsync("with_companion");
    }

    [Fact]
    public void Folder_of_another_user_is_refused()
    {
        // Only root can give a folder away.
        if (!Environment.IsPrivilegedProcess)
            Assert.Skip("Giving a folder to another user takes root.");
        using (var chown = System.Diagnostics.Process.Start("chown", ["12345", _folder.Path]))
            chown.Ends();
        var e = Expect.Refused(Errno.EPERM, () => new ModuleLoader(_fabric, _folder.Path, watch: false).Dispose());
        Assert.Contains($": {_folder.Path} belongs to user 12345, who is neither user {FileOwner.CurrentUser} who runs this nor root and could change it. Use: chown {FileOwner.CurrentUser} {_folder.Path}, ", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    // A group of the user's own, as useradd makes it.
    [InlineData(1000, 1000, "ann:x:1000:", true)]
    [InlineData(1000, 1000, "ann:x:1000:ann", true)]
    // Somebody else is in it.
    [InlineData(1000, 1000, "ann:x:1000:bob", false)]
    [InlineData(1000, 1000, "ann:x:1000:ann,bob", false)]
    // The first group of several users.
    [InlineData(1002, 100, "users:x:100:", false)]
    [InlineData(1003, 100, "cat:x:100:", false)]
    // Not the user's first group, of another name, of nobody, or kept elsewhere.
    [InlineData(1000, 50, "ann:x:50:", false)]
    [InlineData(1000, 1000, "staff:x:1000:", false)]
    [InlineData(1000, 1000, "ann:x:1001:", false)]
    [InlineData(4000, 4000, "dan:x:4000:", false)]
    [InlineData(1000, 1000, "", false)]
    public void Group_is_private_when_nobody_else_is_in_it(uint user, uint group, string line, bool isPrivate)
    {
        string[] users = ["root:x:0:0::/root:/bin/sh", "ann:x:1000:1000::/home/ann:/bin/sh", "bob:x:1001:1001::/home/bob:/bin/sh", "cat:x:1002:100::/:", "eve:x:1003:100::/:", "broken"];
        Assert.Equal(isPrivate, PrivateGroup.IsOf(user, group, users, ["root:x:0:", line, "broken"]));
    }
}
