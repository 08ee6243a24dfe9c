using System.Collections.Concurrent;
using System.Reflection;
using System.Reflection.Emit;
using System.Reflection.Metadata;
using System.Reflection.Metadata.Ecma335;
using System.Reflection.PortableExecutable;
using System.Text;
using Virtbus.Core;

namespace Virtbus.Tests;

/// <summary>What the code of made modules calls; a test says what happens there.</summary>
public static class ModuleHooks
{
    private static readonly ConcurrentDictionary<string, Func<ModuleContext, ValueTask>> Inits = new();

    /// <summary>The made modules whose code ran, by name.</summary>
    internal static ConcurrentDictionary<string, int> Ran { get; } = new();

    internal static void On(string module, Func<ModuleContext, ValueTask> init) => Inits[module] = init;

    /// <summary>Called by a made module's init.</summary>
    public static ValueTask Init(string module, ModuleContext context)
    {
        Ran.AddOrUpdate(module, 1, static (_, n) => n + 1);
        return Inits.TryGetValue(module, out var init) ? init(context) : default;
    }

    /// <summary>Called by a made module's static code.</summary>
    public static void Static(string module)
    {
        Ran.AddOrUpdate(module + " static", 1, static (_, n) => n + 1);
        if (module.StartsWith("throwing", StringComparison.Ordinal))
            throw new InvalidOperationException("static code of " + module);
    }
}

/// <summary>A modules folder of a test, with files made for it.</summary>
internal sealed class ModuleFolder : IDisposable
{
    public ModuleFolder() => Path = Directory.CreateTempSubdirectory("virtbus-modules-").FullName;

    public string Path { get; }

    public string File(string name) => System.IO.Path.Combine(Path, name);

    /// <summary>Copies a sample that was built beside the tests.</summary>
    public void Sample(params string[] names)
    {
        foreach (var name in names)
        {
            var built = System.IO.Path.Combine(AppContext.BaseDirectory, "..", "..", name, new DirectoryInfo(AppContext.BaseDirectory).Name, name + ".dll");
            System.IO.File.Copy(built, File(name + ".dll"), overwrite: true);
        }
    }

    /// <summary>Makes a module file.</summary>
    public void Make(
        string name,
        string? declared = null,
        string? entry = "Entry",
        bool implements = true,
        bool declares = true,
        string[]? aliases = null,
        bool nullAlias = false,
        string[]? references = null,
        bool hasStaticCode = false,
        string description = "made")
    {
        var builder = new PersistedAssemblyBuilder(new AssemblyName(name), typeof(object).Assembly);
        var module = builder.DefineDynamicModule(name);
        if (declares)
            builder.SetCustomAttribute(typeof(FabricModuleAttribute).GetConstructors()[0], Blob([declared ?? name, entry], description));
        foreach (var alias in aliases ?? [])
            builder.SetCustomAttribute(typeof(ModuleAliasAttribute).GetConstructors()[0], Blob([alias], null));
        if (nullAlias)
            builder.SetCustomAttribute(typeof(ModuleAliasAttribute).GetConstructors()[0], Blob([null], null));
        var type = module.DefineType("Entry", TypeAttributes.Public);
        if (implements)
        {
            type.AddInterfaceImplementation(typeof(IFabricModule));
            var init = type.DefineMethod(nameof(IFabricModule.InitAsync), MethodAttributes.Public | MethodAttributes.Virtual, typeof(ValueTask), [typeof(ModuleContext)]);
            var il = init.GetILGenerator();
            il.Emit(OpCodes.Ldstr, name);
            il.Emit(OpCodes.Ldarg_1);
            il.Emit(OpCodes.Call, typeof(ModuleHooks).GetMethod(nameof(ModuleHooks.Init))!);
            il.Emit(OpCodes.Ret);
        }
        if (hasStaticCode)
            CallStatic(type.DefineTypeInitializer().GetILGenerator(), name);
        type.CreateType();
        if (hasStaticCode)
        {
            var initializer = module.DefineGlobalMethod(
                ".cctor",
                MethodAttributes.Static | MethodAttributes.SpecialName | MethodAttributes.RTSpecialName | MethodAttributes.Private,
                typeof(void),
                null);
            CallStatic(initializer.GetILGenerator(), name);
            module.CreateGlobalFunctions();
        }
        var metadata = builder.GenerateMetadata(out var code, out var data);
        foreach (var reference in references ?? [])
            metadata.AddAssemblyReference(metadata.GetOrAddString(reference), new Version(0, 0), default, default, default, default);
        var image = new BlobBuilder();
        new ManagedPEBuilder(PEHeaderBuilder.CreateLibraryHeader(), new MetadataRootBuilder(metadata), code, mappedFieldData: data).Serialize(image);
        using var file = System.IO.File.Create(File(name + ".dll"));
        image.WriteContentTo(file);
    }

    public void Dispose() => Directory.Delete(Path, recursive: true);

    private static void CallStatic(ILGenerator il, string name)
    {
        il.Emit(OpCodes.Ldstr, name);
        il.Emit(OpCodes.Call, typeof(ModuleHooks).GetMethod(nameof(ModuleHooks.Static))!);
        il.Emit(OpCodes.Ret);
    }

    // ECMA-335 II.23.3: prolog, fixed arguments, named arguments.
    private static byte[] Blob(string?[] fixedArguments, string? description)
    {
        var blob = new BlobBuilder();
        blob.WriteUInt16(1);
        foreach (var argument in fixedArguments)
            blob.WriteSerializedString(argument);
        blob.WriteUInt16((ushort)(description is null ? 0 : 1));
        if (description is not null)
        {
            blob.WriteByte(0x54);
            blob.WriteByte(0x0E);
            blob.WriteSerializedString("Description");
            blob.WriteSerializedString(description);
        }
        return blob.ToArray();
    }
}
